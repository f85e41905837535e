"""Parameter groups: every parameter once, with the learning rate and the weight decay that it should have."""

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torchvision.models.detection import RetinaNet

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


@pytest.mark.parametrize("name", ["ext_resnet18", "ext_convnext_atto", "ext_efficientnet_b0"])
def test_a_detector_learns_by_layer_in_its_backbone_and_at_the_full_rate_elsewhere(name: str) -> None:
    net = RetinaNet(tbx.pyramid(name, 32, freeze_at=2), num_classes=3)
    groups = tbx.param_groups(net, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    rate = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    decay = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    learning = {parameter for parameter in net.parameters() if parameter.requires_grad}
    assert rate.keys() == learning
    assert sum(len(group["params"]) for group in groups) == len(learning)
    inside = {parameter for parameter in net.backbone.body.parameters() if parameter.requires_grad}
    assert {rate[parameter] for parameter in learning - inside} == {1.0}
    assert max(rate[parameter] for parameter in inside) == 0.5
    assert len({rate[parameter] for parameter in inside}) >= 4
    assert {decay[parameter] for parameter in learning if parameter.ndim == 1} == {0.0}
    assert {decay[parameter] for parameter in learning if parameter.ndim == 4} == {0.1}


def test_timms_optimiser_factory_takes_the_groups() -> None:
    made = tbx.pyramid("ext_resnet18", 8, "P3-P5", edits="dcn")
    groups = tbx.param_groups(made, lr=1e-3, weight_decay=0.1, layer_decay=0.5)
    optimizer = create_optimizer_v2(groups, opt="adamw", lr=123.0, weight_decay=123.0)
    assert isinstance(optimizer, torch.optim.AdamW)
    for got, asked in zip(optimizer.param_groups, groups, strict=True):
        assert (got["lr"], got["weight_decay"]) == (asked["lr"], asked["weight_decay"])
    sum(level.square().mean() for level in made(torch.randn(2, 3, 64, 64)).values()).backward()
    optimizer.step()


def test_layer_decay_without_a_backbone_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a model with a timm backbone in it; Linear has none"):
        tbx.param_groups(torch.nn.Linear(2, 2), lr=1.0, layer_decay=0.5)


def learning(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ["ext_test_resnet", "ext_test_convnext", "ext_test_efficientnet"])
def test_only_what_edits_added_learns_beside_a_frozen_base(name: str) -> None:
    """Norms and the classifier too, if asked."""
    model = timm.create_model(name, edits="lora(rank=2)", num_classes=4)
    lora = {key for key, _ in model.named_parameters() if ".lora." in key}
    heads = {key for key, _ in model.named_parameters() if key.startswith(("fc.", "head.fc.", "classifier."))}
    tbx.freeze_base(model, norms=True)
    norms = learning(model) - lora - heads
    assert norms
    assert all("Norm" in type(model.get_submodule(key.rpartition(".")[0])).__name__ for key in norms)
    tbx.freeze_base(model, norms=False, classifier=False)
    assert learning(model) == lora
    tbx.freeze_base(model, norms=False)
    assert learning(model) == lora | heads
    assert {p for group in tbx.param_groups(model, lr=1.0) for p in group["params"]} == {
        model.get_parameter(key) for key in lora | heads
    }


def test_frozen_tensors_keep_their_bits_and_get_no_gradient() -> None:
    model = timm.create_model("ext_test_resnet", edits="lora(rank=2)", num_classes=4)
    tbx.freeze_base(model, norms=False)
    before = {key: value.clone() for key, value in model.train().state_dict().items()}
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        loss = model(torch.randn(2, 3, 64, 64)).square().mean()
    loss.backward()
    torch.optim.SGD(tbx.param_groups(model, lr=1.0, layer_decay=0.9)).step()
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert frozen
    assert all(parameter.grad is None for parameter in frozen)
    changed = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    assert changed
    assert changed <= learning(model)
    assert not any(value.shape == (2, 3, 64, 64) for value in kept), "the image is kept for the gradient of the stem"


def test_a_frozen_base_of_feature_maps_and_one_without_edits() -> None:
    maps = timm.create_model("ext_test_resnet", edits="lora(rank=2)", features_only=True)
    tbx.freeze_base(maps, norms=False)
    assert learning(maps)
    assert all("lora" in name for name in learning(maps))
    maps(torch.randn(1, 3, 64, 64))
    probe = tbx.freeze_base(timm.create_model("ext_test_resnet"), norms=False)
    assert learning(probe) == {"fc.weight", "fc.bias"}
    with pytest.raises(ValueError, match="nothing would learn"):
        tbx.freeze_base(probe, norms=False, classifier=False)
