"""Pictures of offsets, receptive fields, pyramids and edited blocks, and what notebooks show."""

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.catalog.houses import floors
from timm_backbones_ext.catalog.sampling import centre, extent, opened, receptive_field, sampled_taps
from timm_backbones_ext.cli import main


def test_taps_of_an_untrained_dcn_are_those_of_the_plain_conv_and_follow_offsets() -> None:
    model, photo = timm.create_model("ext_test_resnet", edits="dcn(stages=[4])").eval(), Image.new("RGB", (64, 64))
    taps = sampled_taps(model, photo)[-1]
    assert torch.equal(taps.plain, taps.moved)
    assert torch.equal(taps.masks, torch.ones(9, 9))
    conv = model.get_submodule(taps.layer)
    conv.conv_offset.bias.data[:2] = torch.tensor([1.0, -0.5])  # dy, dx of the first tap
    moved = sampled_taps(model, photo)[-1]
    pixels = moved.moved - moved.plain
    scale = (moved.plain[0, 3] - moved.plain[0, 0])[0]  # pixels of the photo per position
    assert torch.allclose(pixels[:, 0], torch.tensor([1.0, -0.5]) * scale)
    assert not pixels[:, 1:].any()
    with pytest.raises(ValueError, match="no deformable conv; the edit dcn adds some"):
        sampled_taps(timm.create_model("test_resnet"), photo)


def test_the_receptive_field_of_an_edit_is_that_of_its_base_until_its_new_entries_are_used() -> None:
    base = testing.calibrate(timm.create_model("test_efficientnet")).eval()
    edited = tbx.edit(copy.deepcopy(base), "kernel(size=13)").eval()
    before, after = receptive_field(base, 96, 2), receptive_field(edited, 96, 2)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    assert radius(receptive_field(opened(edited), 96, 2)) > 1.05 * radius(before)
    assert opened(tbx.edit(copy.deepcopy(base), "frozen_bn")) is None


def radius(field: torch.Tensor) -> float:
    """Mean distance from the centre, in pixels."""
    at = torch.arange(len(field)) - len(field) / 2
    return ((at[:, None] ** 2 + at**2).sqrt() * field).sum().item() / field.sum().item()


def test_a_field_ends_where_a_conv_ends() -> None:
    field = torch.zeros(32, 32)
    field[9:14, 19:24] = 1
    assert centre(field) == (11, 21)
    assert extent(field) == 5


def test_a_house_says_what_was_there_what_was_added_and_what_is_zero() -> None:
    block, house = floors(timm.create_model("ext_test_resnet", edits="dcn(stages=[4])"))
    kinds = {floor.name: floor.kind for floor in house}
    assert block == "layer4.0"
    assert [name for name, kind in kinds.items() if kind == "added"] == ["conv2.conv_offset"]
    assert [name for name, kind in kinds.items() if kind == "replaced"] == ["conv2"]
    assert all(text.endswith(": zero") for floor in house for text in floor.new)
    with pytest.raises(ValueError, match="expected an edited model"):
        floors(timm.create_model("ext_test_resnet"))


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def test_the_commands_draw_png_svg_and_pdf(photo: str, tmp_path: Path) -> None:
    dcn = ["ext_test_resnet", "--edits", "dcn(stages=[4])"]
    for kind, ending, words in (
        ("maps", "png", ["ext_test_resnet", "--image", photo, "--size", "64"]),
        ("offsets", "png", [*dcn, "--image", photo, "--size", "64"]),
        ("receptive-field", "svg", ["test_convnext", "--edits", "kernel(size=13)", "--size", "64"]),
        ("pyramid", "pdf", ["ext_test_resnet", "--levels", "P3-P6"]),
        ("block", "svg", dcn),
    ):
        file = tmp_path / f"{kind}.{ending}"
        done = CliRunner().invoke(main, ["picture", kind, *words, "-o", str(file), "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["picture"] == str(file)
        assert file.stat().st_size > 3000
        assert CliRunner().invoke(main, ["picture", kind, *words, "-o", str(file)]).exit_code == 2


def test_notebooks_show_tables() -> None:
    model = timm.create_model("ext_test_resnet").eval()
    shown = {
        "Report": (tbx.compare(model, model), "same function"),
        "Variant": (tbx.VARIANTS["ext_resnet50_dcn"], "ext_resnet50_dcn: resnet50"),
        "Pyramid": (tbx.pyramid(model, 8), "<td>p7</td><td>8</td><td>128</td>"),
        "EditTable": (tbx.EDITS, "37.4 -&gt; 41.3"),
    }
    for name, (value, text) in shown.items():
        assert type(value).__name__ == name
        assert text in value._repr_html_()
