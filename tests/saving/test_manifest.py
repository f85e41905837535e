"""SHA256SUMS: every single-bit flip of every file of a saved backbone is found or said."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest

import timm_backbones_ext as tbx
from timm_backbones_ext._digest import sha256_of
from timm_backbones_ext.saving.manifest import check_files

FILES = ["README.md", "SHA256SUMS", "config.json", "fingerprint.safetensors", "model.safetensors"]


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def outcome(folder: Path) -> str:
    try:
        report = tbx.verify(folder)
    except (tbx.HubError, tbx.WeightsError, FileNotFoundError) as error:
        return str(error)
    return "unnoticed" if report.same and not report.notes else str(report)


@pytest.mark.parametrize("name", FILES)
def test_single_bit_flips_are_found_in_every_file(name: str, copy: Path) -> None:
    path, draws = copy / name, random.Random(0)
    for count, bit in enumerate(draws.sample(range(8 * path.stat().st_size), 12)):
        flip(path, bit)
        found = check_files(copy)
        assert found.changed or found.notes, f"bit {bit} of {name}"
        assert count > 2 or outcome(copy) != "unnoticed", f"bit {bit} of {name}"
        flip(path, bit)
    assert outcome(copy) == "unnoticed", "the files are whole again"


def test_every_bit_of_the_manifest_counts(copy: Path) -> None:
    path = copy / "SHA256SUMS"
    assert check_files(copy) == type(check_files(copy))()
    for bit in range(0, 8 * path.stat().st_size, 3):
        flip(path, bit)
        found = check_files(copy)
        assert found.changed or found.notes, f"bit {bit}"
        flip(path, bit)


def test_a_flip_below_the_fingerprints_tolerance_is_named(copy: Path) -> None:
    flip(copy / "model.safetensors", 8 * 500_000)  # the last bit of a weight
    report = tbx.verify(copy)
    assert report.same_function
    assert not report.same
    assert report.structure == ("model.safetensors is not the file that was saved (its sha256 differs)",)
    assert "its sha256 differs" in str(report)


def test_the_manifest_is_what_sha256sum_reads(backbone: Path) -> None:
    lines = [f"{sha256_of(backbone / name)}  {name}" for name in FILES if name != "SHA256SUMS"]
    assert (backbone / "SHA256SUMS").read_text().splitlines() == lines
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=backbone, check=True)


def test_an_old_folder_without_hashes_still_verifies_and_says_what_was_not_compared(copy: Path) -> None:
    (copy / "SHA256SUMS").unlink()
    report = tbx.verify(copy)
    assert report.same
    assert report.notes == ("no SHA256SUMS, so the bytes of the files were not compared",)
    assert "were not compared" in str(report)


def test_an_edited_card_is_said_and_no_fault_of_the_model(copy: Path) -> None:
    with (copy / "README.md").open("a") as card:
        card.write("\n## Training\n")
    report = tbx.verify(copy)
    assert report.same
    assert report.notes == ("README.md was edited after it was saved",)
    (copy / "README.md").unlink()
    assert tbx.verify(copy).notes == ("README.md is not here",)


def test_a_file_that_the_manifest_does_not_list_is_a_difference(copy: Path) -> None:
    path = copy / "SHA256SUMS"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "config.json" not in line))
    report = tbx.verify(copy)
    assert not report.same
    assert report.structure == ("config.json is not in SHA256SUMS",)


@pytest.mark.parametrize(
    "line", [f"{'0' * 64}  ../../evil\n", f"{'0' * 64}  README.md\n", "what\n", f"{'A' * 64}  model.safetensors\n"]
)
def test_a_manifest_that_save_does_not_write_is_damaged(line: str, copy: Path) -> None:
    with (copy / "SHA256SUMS").open("a") as file:
        file.write(line)
    assert tbx.verify(copy).structure == ("SHA256SUMS is damaged",)


def test_changed_files_are_not_sent(copy: Path) -> None:
    flip(copy / "model.safetensors", 8 * 500_000)
    with pytest.raises(tbx.HubError, match=r"nothing was sent: model.safetensors is not the file that was saved"):
        tbx.push_to_hub(copy, "me/changed")
