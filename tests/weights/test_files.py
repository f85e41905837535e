"""safetensors files: what is read is what was written, in memory of its own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from timm_backbones_ext import WeightsError
from timm_backbones_ext.weights import files
from timm_backbones_ext.weights.files import read_tensors

TENSORS = {
    "odd": torch.randn(3, 5),
    "empty": torch.empty(0, 4),
    "scalar": torch.tensor(7),
    "half": torch.randn(9).half(),
    "wide": torch.randn(64, 33, dtype=torch.float64),
    "last": torch.randn(1).bfloat16(),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


@pytest.mark.parametrize("share", [1, 128, 1 << 20])
def test_tensors_are_those_of_the_file_in_its_order(share: int, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SHARE", share)
    found = read_tensors(file)
    assert list(found) == list(files.read_header(file))
    for key, tensor in TENSORS.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor)


def test_each_tensor_is_aligned_can_be_written_and_shares_its_storage_with_none(file: Path, tmp_path: Path) -> None:
    found = read_tensors(file)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values())
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in found.values())
    found["odd"].zero_()
    assert torch.equal(found["wide"], TENSORS["wide"])
    assert torch.equal(read_tensors(file)["odd"], TENSORS["odd"])
    save_file(found, tmp_path / "again.safetensors")  # refuses tensors that share memory
    assert torch.equal(load_file(tmp_path / "again.safetensors")["half"], TENSORS["half"])


def test_tensors_outlive_the_others_that_were_read_with_them(file: Path) -> None:
    wide = read_tensors(file)["wide"]
    assert torch.equal(wide, TENSORS["wide"])


def test_a_file_that_is_cut_off_while_it_is_read_is_damaged(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = files.read_header(file)
    file.write_bytes(file.read_bytes()[:-8])
    monkeypatch.setattr(files, "read_header", lambda path: header)
    with pytest.raises(WeightsError, match=r"x.safetensors is damaged: it ends inside \w+"):
        read_tensors(file)
