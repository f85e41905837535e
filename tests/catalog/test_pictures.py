"""Pictures of feature maps."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from timm_backbones_ext.catalog.pictures import (
    FeatureMap,
    feature_maps,
    load_photo,
    photo_maps,
    principal_colours,
    require_drawable,
)


def test_the_same_map_gives_the_same_colours_whatever_the_sign_of_its_channels() -> None:
    level = torch.randn(16, 7, 9)
    colours = principal_colours(level)
    assert colours.shape == (7, 9, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    np.testing.assert_array_equal(principal_colours(level), colours)


def test_regions_that_differ_get_colours_that_differ() -> None:
    level = torch.zeros(8, 6, 6)
    level[:4, :, 3:] = 1
    colours = principal_colours(level + 1e-3 * torch.randn(8, 6, 6))
    left, right = colours[:, :3].mean((0, 1)), colours[:, 3:].mean((0, 1))
    assert abs(left - right).max() > 0.5


def test_maps_of_one_or_two_channels_are_drawn_too() -> None:
    for channels in (1, 2):
        assert principal_colours(torch.randn(channels, 5, 5)).shape == (5, 5, 3)


@pytest.fixture
def photo() -> Image.Image:
    return Image.radial_gradient("L").convert("RGB").resize((64, 64))


def test_the_maps_of_a_photo_are_those_of_the_model(photo: Image.Image) -> None:
    model = timm.create_model("ext_resnet18", features_only=True).eval()
    maps = photo_maps(model, photo)
    assert [level.stride for level in maps] == [2, 4, 8, 16, 32]
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    x = (torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255 - mean) / std
    for level, expected in zip(maps, model(x[None]), strict=True):
        torch.testing.assert_close(level.values, expected[0], rtol=1e-4, atol=1e-5)


def test_a_level_says_what_it_is() -> None:
    assert str(FeatureMap(3, 16, torch.zeros(1024, 14, 14))) == "level 3 · 1024 × 14 × 14 · stride 16"  # noqa: RUF001


@pytest.mark.parametrize(("ending", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_ending_is_the_format_and_the_same_maps_give_the_same_bytes(
    photo: Image.Image, tmp_path: Path, ending: str, head: bytes
) -> None:
    maps = [FeatureMap(0, 2, torch.randn(8, 32, 32)), FeatureMap(1, 4, torch.randn(3, 16, 16))]
    one, other = (tmp_path / f"{name}.{ending}" for name in ("one", "other"))
    for file in (one, other):
        feature_maps(maps, photo, file, title="twice")
    assert one.read_bytes().startswith(head)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("file", "error"),
    [("x.jpg", ValueError), ("x", ValueError), ("no/x.png", FileNotFoundError), ("there.png", OSError)],
)
def test_a_picture_that_cannot_be_written_is_refused_beforehand(tmp_path: Path, file: str, error: type) -> None:
    (tmp_path / "there.png").write_text("")
    with pytest.raises(error):
        require_drawable(tmp_path / file)
    require_drawable(tmp_path / "there.png", overwrite=True)


@pytest.mark.parametrize("values", [torch.full((4, 5, 5), 2.0), torch.zeros(2, 1, 1), torch.zeros(1, 3, 3)])
def test_a_constant_map_is_grey(values: torch.Tensor) -> None:
    np.testing.assert_array_equal(principal_colours(values), np.full((*values.shape[1:], 3), 0.5))


def test_maps_that_are_not_finite_are_refused(photo: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite"):
        feature_maps([FeatureMap(0, 2, torch.full((4, 3, 3), torch.nan))], photo, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_a_model_of_five_channels_takes_no_photo(photo: Image.Image) -> None:
    model = timm.create_model("ext_resnet18", edits="in_chans(5)", features_only=True).eval()
    with pytest.raises(ValueError, match="takes 5"):
        photo_maps(model, photo)


def test_a_photo_is_turned_upright_and_cut_in_the_middle(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste("red", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the left of the file is the top of the scene
    picture.save(tmp_path / "turned.png", exif=exif)
    upright = load_photo(tmp_path / "turned.png", 10)
    assert upright.size == (10, 10)
    assert upright.getpixel((5, 0)) == (255, 0, 0)
    assert upright.getpixel((5, 9)) == (0, 0, 0)
