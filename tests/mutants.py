"""How many small mistakes the tests of a part catch: a random sample of Cosmic Ray's mutants, each run in a copy.

    make mutants                                     # 200 mutants of all parts; hours
    .venv-mutants/bin/python tests/mutants.py --sample 20 --part weights --workers 1

Prints every mutant that survives, as a diff, and writes .cache/mutants.json.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from cosmic_ray.commands import init as find_mutants
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec

ROOT = Path(__file__).parent.parent
PACKAGE = "timm_backbones_ext"
PARTS = {
    "edits": (("edits", "families"), "tests/edits tests/weights"),
    "layers": (("layers",), "tests/layers tests/edits"),
    "weights": (("weights", "registry.py"), "tests/weights tests/test_registry.py"),
    "fingerprints": (("fingerprints.py",), "tests/test_fingerprint.py"),
    "features": (("features.py",), "tests/layers/test_features.py"),
    "transport": (("transport",), "tests/transport tests/hub"),
}
"""By part: its modules, and the tests that are to catch mistakes in them."""
LEFT_OUT = "core/ReplaceBinaryOperator_BitOr"
"""`|` stands in annotations, where a mistake is an error at import."""
TIMEOUT = 600.0  # seconds; a mutant that takes longer is caught


def mutants(part: str) -> list[MutationSpec]:
    """All mutants of a part."""
    files = [ROOT / PACKAGE / name for name in PARTS[part][0]]
    modules = [path for file in files for path in ([file] if file.is_file() else sorted(file.rglob("*.py")))]
    with tempfile.TemporaryDirectory() as scratch, use_db(f"{scratch}/session.sqlite", WorkDB.Mode.create) as db:
        find_mutants([path.relative_to(ROOT) for path in modules], db, {})
        found = [item.mutations[0] for item in db.work_items]
    return [mutant for mutant in found if not mutant.operator_name.startswith(LEFT_OUT)]


def survives(part: str, mutant: MutationSpec) -> str | None:
    """The diff of a mutant that the tests of its part do not catch; none if they do."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in (PACKAGE, "tests", "conftest.py", "pyproject.toml"):
            source, copy = ROOT / name, Path(scratch, name)
            shutil.copytree(source, copy) if source.is_dir() else shutil.copyfile(source, copy)
        os.chdir(scratch)  # first on sys.path with `python -m`
        tests = " ".join(path for path in PARTS[part][1].split() if Path(path).exists())
        result = mutate_and_test([mutant], f"{sys.executable} -m pytest -x -q -p no:randomly {tests}", TIMEOUT)
        os.chdir(ROOT)
    return None if result.is_killed else f"{mutant.module_path}, {mutant.operator_name}\n{result.diff}"


def main() -> None:
    """Draw a sample, run it, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=200, help="mutants in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=PARTS, action="append", help="only these parts")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    every = [(part, mutant) for part in asked.part or PARTS for mutant in mutants(part)]
    sample = random.Random(asked.seed).sample(every, min(asked.sample, len(every)))
    with ProcessPoolExecutor(asked.workers) as pool:
        survivors = []
        for count, diff in enumerate(pool.map(survives, *zip(*sample, strict=True)), 1):
            survivors += [diff] if diff else []
            print(
                f"{count}/{len(sample)}, {len(survivors)} not caught", *([diff] if diff else []), sep="\n", flush=True
            )
    caught = len(sample) - len(survivors)
    facts = {"mutants": len(every), "sample": len(sample), "seed": asked.seed, "caught": caught, "survivors": survivors}
    (ROOT / ".cache").mkdir(exist_ok=True)
    (ROOT / ".cache" / "mutants.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(f"{caught} of {len(sample)} caught ({caught / len(sample):.0%})")


if __name__ == "__main__":
    main()
