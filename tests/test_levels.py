"""The table of docs/concepts/levels.md, made anew from the models."""

from pathlib import Path

import pytest
import timm
import torch

import timm_backbones_ext as tbx
from timm_backbones_ext.families import FAMILIES, levels

PAGE = Path(__file__).parents[1] / "docs" / "concepts" / "levels.md"


def rows(name: str) -> list[str]:
    """A line of the table per level: index, module, stages of edits, stride, P-level, freeze_at."""
    with torch.device("meta"):
        model = timm.create_model(name)
    try:
        stages = FAMILIES[next(f for f, item in FAMILIES.items() if isinstance(model, item.cls))].stages(model)
    except ValueError:  # a VGG has none
        stages = []
    lines, done = [], 0
    for level in levels(model):
        end = sum(place.removesuffix(".blocks") <= level.module for place in stages)
        span = "-" if end == done else str(end) if end == done + 1 else f"{done + 1}-{end}"
        power = level.stride.bit_length() - 1
        lines.append(f"| {level.index} | `{level.module}` | {span} | {level.stride} | P{power} | {max(power, 1)} |")
        done = end
    return lines


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_has_the_levels_of_every_family(family: str) -> None:
    name = f"ext_{FAMILIES[family].reference}"
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition(f"### `{name}`")[2].partition("###")[0]
    assert [line for line in section.splitlines() if line[2:3].isdigit()] == rows(name)


@pytest.mark.parametrize("name", ["ext_resnet18", "ext_convnext_atto", "ext_efficientnet_b0", "ext_vgg11"])
def test_freeze_at_and_p_levels_are_those_of_the_page(name: str) -> None:
    """A level's P-level is the map of a pyramid that it becomes, and its `freeze_at` freezes it and no finer one."""
    model = timm.create_model(name, num_classes=0)
    for level in levels(model):
        power = level.stride.bit_length() - 1
        if power > 2 or name != "ext_vgg11":
            made = tbx.pyramid(model, 8, f"P{power}-P{power}", neck=None)
            assert made.strides == (level.stride,)
            assert made.out_channels == (level.channels,)
        learning = tbx.freeze_at(tbx.wrap(model), max(power, 1))
        named = {learning.full_name(key): p.requires_grad for key, p in learning.named_parameters()}
        inside = [learns for key, learns in named.items() if key.startswith(f"{level.module}.")]
        assert not any(inside)
        assert any(named.values()) or level.stride >= 16  # level 5 of a VGG is a pooling layer
        for parameter in model.parameters():
            parameter.requires_grad_(True)
