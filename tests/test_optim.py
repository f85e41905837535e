"""Parameter groups: every parameter once, with the learning rate and the weight decay that it should have."""

import pytest
import timm
import torch

import timm_backbones_ext as tbx


@pytest.mark.parametrize("features_only", [False, True])
@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_offsets_learn_at_a_tenth_of_the_rate_of_their_conv(features_only: bool, layer_decay: float | None) -> None:
    model = timm.create_model("ext_resnet18", edits="dcn", features_only=features_only)
    groups = tbx.param_groups(model, lr=1.0, weight_decay=0.1, layer_decay=layer_decay)
    rate = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    decay = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert rate.keys() == set(model.parameters())
    assert sum(len(group["params"]) for group in groups) == len(rate)
    convs = [layer for layer in model.modules() if hasattr(layer, "conv_offset")]
    assert len(convs) == 6
    for conv in convs:
        assert rate[conv.conv_offset.weight] == pytest.approx(0.1 * rate[conv.weight])
        assert decay[conv.conv_offset.weight] == 0.1
        assert decay[conv.conv_offset.bias] == 0
    if layer_decay:
        assert rate[convs[0].weight] < rate[convs[-1].weight]
    else:
        assert {round(value, 6) for value in rate.values()} == {1.0, 0.1}
    torch.optim.AdamW(groups).step()


def test_frozen_parameters_are_in_no_group() -> None:
    model = timm.create_model("ext_resnet18", edits="frozen_bn")
    model.conv1.requires_grad_(False)
    found = {p for group in tbx.param_groups(model, lr=1.0) for p in group["params"]}
    assert model.conv1.weight not in found
    assert len(found) == len(list(model.parameters())) - 1
