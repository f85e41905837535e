"""The sha256 of each file of a saved backbone, in a file that `sha256sum --check SHA256SUMS` reads as well.

The hashes are in a file of their own because config.json cannot hold its own hash. timm, transformers and
huggingface_hub ignore the file.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from .._digest import sha256_of
from ..weights.files import CARD, DETECTOR, EXPORTED, MANIFEST, PULLED

__all__ = ["FileCheck", "check_files", "write_manifest"]

LISTED = (*PULLED, CARD, *DETECTOR, *EXPORTED)
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)\n")


@dataclass(frozen=True)
class FileCheck:
    """How the files of a folder compare with its manifest."""

    changed: tuple[str, ...] = ()
    """Sentences on files that differ from the saved ones."""
    notes: tuple[str, ...] = ()
    """Sentences on files that were not compared; an edited card is a note too, since cards may be edited."""


def write_manifest(folder: Path) -> None:
    """Write the sha256 of each file that is in a folder now."""
    present = sorted(name for name in LISTED if (folder / name).is_file())
    text = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in present)
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")


def check_files(folder: Path, pulled: bool = False) -> FileCheck:
    """Compare the files of a folder with its manifest; a folder without one is only noted.

    Args:
        folder: A saved backbone.
        pulled: Whether a pull made the folder. Nothing is said of files that a pull leaves out.
    """
    if not (folder / MANIFEST).is_file():
        return FileCheck(notes=(f"no {MANIFEST}, so the bytes of the files were not compared",))
    saved = _read(folder / MANIFEST)
    if saved is None:
        return FileCheck(changed=(f"{MANIFEST} is damaged",))
    changed, notes = [], []
    for name in LISTED:
        here = (folder / name).is_file()
        if not here and (name not in saved or (pulled and name not in PULLED)):
            continue
        if not here or name not in saved:
            lack = "is not here" if name in saved else f"is not in {MANIFEST}"
            (changed if name in PULLED else notes).append(f"{name} {lack}")
        elif sha256_of(folder / name) != saved[name]:
            if name == CARD:
                notes.append(f"{name} was edited after it was saved")
            else:
                changed.append(f"{name} is not the file that was saved (its sha256 differs)")
    return FileCheck(tuple(changed), tuple(notes))


def _read(path: Path) -> dict[str, str] | None:
    """The hash by name; None if the file is not exactly as `write_manifest` writes it."""
    try:
        text = path.read_bytes().decode("ascii")
    except UnicodeDecodeError:
        return None
    found = _LINE.findall(text)
    names = [name for _, name in found]
    if "".join(f"{value}  {name}\n" for value, name in found) != text:
        return None
    if names != sorted(set(names)) or not set(names) <= set(LISTED):
        return None
    return {name: value for value, name in found}
