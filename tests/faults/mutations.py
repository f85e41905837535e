"""Random changes of a saved backbone's config, and of the header of its weights, and what becomes of them."""

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from world import CONFIG, RIGHT

import timm_backbones_ext as tbx

__all__ = ["mutations"]

KINDS = {
    "is not JSON": "no JSON",
    "names no architecture": "no architecture",
    "unknown architecture": "unknown architecture",
    "no backbone has so many": "a number too large",
    "expected 0 or more": "classes that are none",
    "label names": "labels of another number than classes",
    "does not fit any model": "arguments that no model takes",
    "do not fit": "keys or shapes of another model",
    "is damaged or is not": "damaged",
    "expected F64, F32": "a type that no backbone has",
}
"""What an error says, and how the table calls it."""


def mutations(folder: Path, name: str, count: int) -> Counter[str]:
    """What becomes of a saved folder whose config, or whose weights' header, is changed at random so many times.

    Raises:
        AssertionError: An error that is not one of `KINDS`; any other exception is one from inside.
    """
    rng, kinds = random.Random(0), Counter()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(shutil.copytree(folder, scratch, dirs_exist_ok=True)) / name
        (path.parent / "SHA256SUMS").unlink(missing_ok=True)  # the reader is on trial here, not the hashes
        data = path.read_bytes()
        size = len(data) if name == CONFIG else 8 + int.from_bytes(data[:8], "little")
        for _ in range(count):
            changed = mutated(data[:size], rng, keep_length=name != CONFIG)
            path.write_bytes(changed + data[size:])
            kinds[outcome(path.parent)] += 1
    return kinds


def outcome(folder: Path) -> str:
    """The kind of outcome of loading a folder."""
    try:
        report = tbx.verify(folder)
    except (tbx.HubError, tbx.WeightsError) as error:
        said = str(error)
    else:
        return RIGHT if report.same else "refused: another fingerprint"
    kinds = [kind for text, kind in KINDS.items() if text in said]
    assert kinds, f"an error that says nothing: {said}"
    return f"refused: {kinds[0]}"


def mutated(data: bytes, rng: random.Random, keep_length: bool = False) -> bytes:
    """One to three changes: a flipped bit, another byte, a digit; or something cut out or doubled."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out))
        match rng.randrange(3 if keep_length else 5):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.randrange(256)
            case 2:
                digits = [i for i, byte in enumerate(out) if chr(byte).isdigit()]
                out[rng.choice(digits)] = ord(rng.choice("0123456789"))
            case 3:
                del out[at : at + rng.randint(1, 9)]
            case 4:
                out[at:at] = out[at : at + rng.randint(1, 9)]
    return bytes(out)
