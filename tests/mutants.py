"""Measure how many mutants the tests of a part catch: a random sample of Cosmic Ray's, each run in a copy.

    make mutants                                     # 200 mutants of all parts; hours
    .venv-mutants/bin/python tests/mutants.py --sample 20 --part weights --workers 1

One run with coverage finds which tests run which line. A mutant meets those of its lines, the quickest first, up to a
minute and a half of tests; one that is run at import, or in other processes alone, meets those of its part. The number
of mutants that are caught is therefore a lower bound. Prints the diff of every mutant that survives, and writes
.cache/mutants.json.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from xml.etree import ElementTree

from cosmic_ray.commands import init as find_mutants
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec
from coverage import CoverageData

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache" / "mutants"
PACKAGE = "timm_backbones_ext"
PARTS = {
    "edits": (("edits", "families"), "tests/edits tests/weights"),
    "layers": (("layers",), "tests/layers tests/edits"),
    "weights": (("weights", "registry.py"), "tests/weights tests/test_registry.py"),
    "fingerprints": (("fingerprints.py",), "tests/test_fingerprint.py"),
    "features": (("features",), "tests/layers"),
    "transport": (("transport",), "tests/transport tests/hub"),
}
"""By part: its modules, and the tests that are to catch mistakes in them."""
LEFT_OUT = "core/ReplaceBinaryOperator_BitOr"
"""`|` stands in annotations, where a mistake is an error at import."""
GUARD = "strict=True"
"""Of `zip`; a mutant without this guard is equivalent as long as the lengths agree."""
BUDGET = 90.0
"""Seconds of tests that a mutant meets."""
TIMEOUT = 600.0  # seconds; a mutant that takes longer is caught


@dataclass(frozen=True)
class Trial:
    """A mutant of a part, and the tests that run its lines."""

    part: str
    mutant: MutationSpec
    tests: tuple[str, ...]


def mutants(part: str) -> list[MutationSpec]:
    """All mutants of a part."""
    files = [ROOT / PACKAGE / name for name in PARTS[part][0]]
    if missing := [file for file in files if not file.exists()]:
        sys.exit(f"{missing[0]} of the part {part} is not there; correct PARTS")
    modules = [path for file in files for path in ([file] if file.is_file() else sorted(file.rglob("*.py")))]
    with tempfile.TemporaryDirectory() as scratch, use_db(f"{scratch}/session.sqlite", WorkDB.Mode.create) as db:
        find_mutants([path.relative_to(ROOT) for path in modules], db, {})
        found = [item.mutations[0] for item in db.work_items]
    found = [mutant for mutant in found if not mutant.operator_name.startswith(LEFT_OUT)]
    return [mutant for mutant in found if not _unguards(mutant)]


def _unguards(mutant: MutationSpec) -> bool:
    """Whether a mutant only takes the guard from a `zip`."""
    (line, start), (_, end) = mutant.start_pos, mutant.end_pos
    text = (ROOT / mutant.module_path).read_text(encoding="utf-8").splitlines()[line - 1]
    return text[max(0, start - len("strict=")) : end] == GUARD


def observe(part: str) -> None:
    """Run the tests of a part with coverage, and keep what they ran and how long each took."""
    CACHE.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", f"--cov={PACKAGE}", "--cov-context=test", "--cov-report="]
    command += [f"--junitxml={CACHE / part}.xml", *PARTS[part][1].split()]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "COVERAGE_FILE": str(CACHE / part)})


def seconds(part: str) -> dict[str, float]:
    """By test, how long it took."""
    cases = ElementTree.parse(CACHE / f"{part}.xml").iter("testcase")
    named = {f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}": case for case in cases}
    return {name: float(case.get("time", 0)) for name, case in named.items()}


def tests_of(part: str, mutant: MutationSpec, took: dict[str, float]) -> tuple[str, ...]:
    """The tests that run the lines of a mutant, the quickest first; those of the part if it is run at import."""
    data = CoverageData(str(CACHE / part))
    data.read()
    by_line = data.contexts_by_lineno(str(ROOT / mutant.module_path))
    lines = range(mutant.start_pos[0], mutant.end_pos[0] + 1)
    ran = {context.partition("|")[0] for line in lines for context in by_line.get(line, ())}
    if not ran or "" in ran:
        ran = set(took)
    quickest = sorted(ran, key=lambda test: took.get(test, 0.0))
    until = accumulate(took.get(test, 0.0) for test in quickest)
    return tuple(
        test for test, seconds in zip(quickest, until, strict=True) if seconds <= BUDGET or test == quickest[0]
    )


def survives(trial: Trial) -> str | None:
    """The diff of a mutant that the tests do not catch; none if they do."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in (PACKAGE, "tests", "benchmarks", "conftest.py", "pyproject.toml"):
            source, copy = ROOT / name, Path(scratch, name)
            shutil.copytree(source, copy) if source.is_dir() else shutil.copyfile(source, copy)
        os.chdir(scratch)  # first on sys.path with `python -m`
        Path("asked.txt").write_text("\n".join(trial.tests) + "\n", encoding="utf-8")
        result = mutate_and_test([trial.mutant], f"{sys.executable} -m pytest -x -q @asked.txt", TIMEOUT)
        os.chdir(ROOT)
    where = f"{trial.mutant.module_path}, {trial.mutant.operator_name}, {len(trial.tests)} tests"
    return None if result.is_killed else f"{where}\n{result.diff}"


def main() -> None:
    """Draw a sample, run it, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=200, help="mutants in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=PARTS, action="append", help="only these parts")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--observed", action="store_true", help="use what an earlier run with coverage found")
    asked = parser.parse_args()
    parts = asked.part or list(PARTS)
    if not asked.observed:
        for part in parts:
            observe(part)
    every = [(part, mutant) for part in parts for mutant in mutants(part)]
    took = {part: seconds(part) for part in parts}
    sample = random.Random(asked.seed).sample(every, min(asked.sample, len(every)))
    trials = [Trial(part, mutant, tests_of(part, mutant, took[part])) for part, mutant in sample]
    with ProcessPoolExecutor(asked.workers) as pool:
        survivors = []
        for count, diff in enumerate(pool.map(survives, trials), 1):
            survivors += [diff] if diff else []
            news = [f"{count}/{len(trials)}, {len(survivors)} not caught", *([diff] if diff else [])]
            print(*news, sep="\n", flush=True)
    caught = len(trials) - len(survivors)
    facts = {"mutants": len(every), "sample": len(trials), "seed": asked.seed, "caught": caught, "survivors": survivors}
    CACHE.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(f"{caught} of {len(trials)} caught ({caught / len(trials):.0%})")


if __name__ == "__main__":
    main()
