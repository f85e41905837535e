"""Checks before a release; `make release-check` builds dist/ and runs them.

    python tests/release_check.py UV [PYTHON ...]

One version everywhere, what the wheel and the sdist hold, metadata and README as PyPI renders it, the lowest and the
newest allowed versions in bare environments of each Python, and the licences of what is installed there.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
LARGEST = 1_000_000  # bytes of a file in wheel or sdist
RESOLUTIONS = ("lowest-direct", "highest")
COPYLEFT = re.compile(r"(?<!L)(?<!Lesser )\b(A?GPL|GNU (Affero )?General Public)", re.IGNORECASE)
TRY = """
import sys, timm_backbones_ext as tbx
assert 'torch' not in sys.modules, 'the import brings torch'
import timm, torch
model = timm.create_model('ext_test_resnet', edits='eca', features_only=True).eval()
print(tbx.__version__, torch.__version__, timm.__version__, len(model(torch.rand(1, 3, 64, 64))), 'levels')
"""


def fail(words: str) -> None:
    """End with a message."""
    sys.exit(f"release-check: {words}")


def run(command: Sequence[object], **kwargs: object) -> str:
    """The output of a command, which has to succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **kwargs)
    if done.returncode:
        fail(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def version() -> str:
    """The version in `_version.py`, which every other place has to have."""
    own = re.search(r'"(.+)"', (ROOT / "timm_backbones_ext" / "_version.py").read_text())
    text = own[1] if own else fail("no version in _version.py") or ""
    places = {
        "CHANGELOG.md": rf"^## \[{re.escape(text)}\] - \d{{4}}-\d\d-\d\d$",
        "CITATION.cff": rf"^version: {re.escape(text)}$",
    }
    for file, pattern in places.items():
        if not re.search(pattern, (ROOT / file).read_text(), re.MULTILINE):
            fail(f"{file} has no version {text}")
    tag = os.environ.get("RELEASE_TAG", f"v{text}")
    return text if tag == f"v{text}" else fail(f"the tag is {tag}, the version {text}") or ""


def members(archive: Path) -> Iterator[tuple[str, int]]:
    """Names and sizes of the files of a wheel or sdist."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield from ((item.filename, item.file_size) for item in wheel.infolist())
    else:
        with tarfile.open(archive) as sdist:
            yield from ((item.name.partition("/")[2], item.size) for item in sdist if item.isfile())


def check_contents(version: str) -> None:
    """Check which files are in the archives, which are not, and how large they are."""
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "timm_backbones_ext").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name} | {"_timm_backbones_ext_autoload.py"}
    expected = {
        f"timm_backbones_ext-{version}-py3-none-any.whl": package,
        f"timm_backbones_ext-{version}.tar.gz": package
        | {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "tests/conftest.py"},
    }
    if {item.name for item in DIST.glob("timm_*")} != set(expected):
        fail(f"dist/ holds {sorted(item.name for item in DIST.iterdir())}; expected {sorted(expected)}")
    for name, wanted in expected.items():
        found = dict(members(DIST / name))
        if missing := sorted(wanted - found.keys()):
            fail(f"{name} lacks {', '.join(missing)}")
        if large := [file for file, size in found.items() if size > LARGEST]:
            fail(f"{name}: {', '.join(large)} has more than {LARGEST:,} bytes")
        if strange := [file for file in found if re.search(r"__pycache__|\.pyc$|\.safetensors$|\.pth$|/\.", file)]:
            fail(f"{name} holds {', '.join(strange[:5])}")
        print(f"{name}: {len(found)} files, {(DIST / name).stat().st_size:,} bytes")


def check_bare(uv: str, python: str, resolution: str, folder: Path) -> None:
    """Install the wheel alone, use it, say how long the import takes, and look at the licences."""
    home = folder / f"{python}-{resolution}"
    made = subprocess.run([uv, "venv", "--quiet", "--python", python, home], capture_output=True, text=True)
    if made.returncode:
        print(f"Python {python} is not here and cannot be fetched: NOT CHECKED ({made.stderr.strip().splitlines()[0]})")
        return
    own, (wheel,) = home / "bin" / "python", DIST.glob("*.whl")
    # requirements of pyproject.toml are direct ones, those of the wheel are not
    chosen = ["--resolution", resolution, "-r", ROOT / "pyproject.toml", wheel]
    run([uv, "pip", "install", "--quiet", "--python", own, *chosen], cwd=folder)
    said = run([own, "-c", TRY], cwd=folder).strip()
    run([own, "-m", "timm_backbones_ext.cli", "--help"], cwd=folder)
    trace = subprocess.run(
        [own, "-X", "importtime", "-c", "import timm_backbones_ext"], cwd=folder, capture_output=True, text=True
    )
    microseconds = int(trace.stderr.strip().splitlines()[-1].split("|")[1])
    print(f"Python {python}, {resolution}: {said}; import {microseconds / 1e3:.0f} ms")
    check_licences(own)


def check_licences(python: Path) -> None:
    """No dependency may be under the GPL or AGPL."""
    command = [sys.executable, "-m", "piplicenses", f"--python={python}", "--from=mixed", "--format=json"]
    found = {item["Name"]: item["License"] for item in json.loads(run(command))}
    if bound := {name: licence for name, licence in found.items() if COPYLEFT.search(licence)}:
        fail(f"dependencies under a licence that binds what is built on them: {bound}")
    print(f"  {len(found)} packages under: {'; '.join(sorted(set(found.values())))}")


def main(uv: str, pythons: Sequence[str]) -> None:
    """Run all checks."""
    check_contents(version())
    print(run([sys.executable, "-m", "twine", "check", "--strict", *DIST.glob("timm_*")]).strip())
    with tempfile.TemporaryDirectory(prefix="release-check-") as folder:
        for python, resolution in product(pythons, RESOLUTIONS):
            check_bare(uv, python, resolution, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
