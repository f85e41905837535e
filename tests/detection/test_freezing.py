"""Frozen stages, synchronised norms and group norms."""

import copy

import pytest
import timm
import torch
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.layers import FrozenBatchNorm2d
from timm_backbones_ext.layers.sync_bn import CpuSyncBatchNorm

KINDS = ["list", "dict", "hook", "getter", "fx"]
FROZEN = {  # by model and n: first part of the names of what learns, and of what does not
    ("resnet18", 1): (["layer1.", "layer4."], ["conv1.", "bn1."]),
    ("resnet18", 2): (["layer2.", "layer4."], ["conv1.", "layer1."]),
    ("resnet18", 5): ([], ["conv1.", "layer1.", "layer4."]),
    ("convnext_atto", 1): (["stages.0.", "stages.3."], ["stem."]),
    ("convnext_atto", 3): (["stages.2."], ["stem.", "stages.0.", "stages.1."]),
    ("efficientnet_b0", 1): (["blocks.1."], ["conv_stem.", "bn1.", "blocks.0."]),
    ("efficientnet_b0", 2): (["blocks.2."], ["conv_stem.", "blocks.0.", "blocks.1."]),
    ("vgg11_bn", 1): (["features.8."], ["features.0.", "features.4."]),
}


def maps(wrapper: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    out = wrapper(x)
    return list(out.values()) if isinstance(out, dict) else out


def step(wrapper: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """All tensors after a step of training with weight decay, under the full model's names."""
    optimizer = torch.optim.SGD([p for p in wrapper.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    sum(level.square().mean() for level in maps(wrapper.train(), x)).backward()
    optimizer.step()
    return {wrapper.full_name(key): value.clone() for key, value in wrapper.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "n"), FROZEN)
def test_training_changes_nothing_in_frozen_stages_and_something_in_all_others(name: str, n: int, kind: str) -> None:
    if n == 5:
        pytest.skip("nothing is left to train") if kind != "list" else None
    wrapper = testing.calibrate(testing.create(f"ext_{name}", features_only=True, feature_cls=kind))
    x = torch.randn(2, 3, 64, 64)
    tbx.freeze_at(wrapper, n)
    before = {wrapper.full_name(key): value.clone() for key, value in wrapper.state_dict().items()}
    learning, still = FROZEN[name, n]
    after = before if n == 5 else step(wrapper, x)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    for part in still:
        assert not any(key.startswith(part) for key in changed), part
        assert not any(p.requires_grad for k, p in wrapper.named_parameters() if wrapper.full_name(k).startswith(part))
    for part in learning:
        keys = {key for key in before if key.startswith(part)}
        assert keys <= changed
    assert wrapper.full_model().state_dict().keys() <= testing.create(name).state_dict().keys()


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "efficientnet_b0", "vgg11_bn"])
def test_a_frozen_model_computes_what_it_computed(name: str) -> None:
    model = testing.calibrate(testing.create(f"ext_{name}", num_classes=10)).double().eval()
    x = testing.image(model, 64, 64)
    expected = testing.outputs(model, x)
    frozen = tbx.freeze_at(copy.deepcopy(model), 2).eval()
    assert testing.largest(testing.outputs(frozen, x), expected) <= 1e-12
    again = tbx.freeze_at(frozen, 3)  # further, of a model that is frozen in part
    assert testing.largest(testing.outputs(again, x), expected) <= 1e-12


STOCK = {  # by model of timm's and n: parts that learn, and parts that do not
    ("convnext_atto", 1): (["stages_0.", "stages_3."], ["stem_"]),
    ("convnext_atto", 2): (["stages_1.", "stages_3."], ["stem_", "stages_0."]),
    ("vgg11", 2): (["features_11.", "features_13."], ["features_0.", "features_3.", "features_8."]),
    ("efficientnet_b0", 2): (["blocks.2."], ["conv_stem.", "blocks.0.", "blocks.1."]),
    ("resnet18", 2): (["layer2."], ["conv1.", "layer1."]),
}


@pytest.mark.parametrize("kind", [None, "list", "dict", "getter", "fx"])
@pytest.mark.parametrize(("name", "n"), STOCK)
def test_timms_own_feature_models_are_frozen_as_far_as_asked(name: str, n: int, kind: str | None) -> None:
    if name == "efficientnet_b0" and kind in ("list", "dict"):
        pytest.skip("timm cannot make it")
    kwargs = {} if kind is None else {"feature_cls": kind}
    model = tbx.freeze_at(testing.create(name, features_only=True, **kwargs), n)
    learning, still = STOCK[name, n]
    rows = {key.removeprefix("model.").removeprefix("graph_module."): p for key, p in model.named_parameters()}
    if kind in ("getter", "fx"):
        learning, still = (
            [part.replace("_", ".", 1) for part in parts if "conv" not in part] for parts in STOCK[name, n]
        )
    for part in still:
        assert {p.requires_grad for key, p in rows.items() if key.startswith(part)} == {False}, part
    for part in learning:
        assert {p.requires_grad for key, p in rows.items() if key.startswith(part)} == {True}, part


def test_a_model_whose_level_ends_nowhere_is_an_error() -> None:
    model = timm.create_model("hrnet_w18_small", features_only=True)
    with pytest.raises(ValueError, match=r"has no module 'stage\d', where its feature_info says that the level"):
        tbx.freeze_at(model, 2)
    assert all(p.requires_grad for p in model.parameters())
    assert tbx.freeze_at(model, 0) is model


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.Dropout2d])
def test_dropout_in_frozen_stages_drops_nothing(dropout: type[nn.Module]) -> None:
    model = timm.create_model("ext_resnet18", features_only=True)
    for stage in (model["layer1"], model["layer4"]):
        stage.append(dropout(0.5))
    tbx.freeze_at(model, 2).train()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model["layer1"](x.new_ones(1, 64, 8, 8)), model["layer1"](x.new_ones(1, 64, 8, 8)))
    assert [model["layer1"][-1].p, model["layer4"][-1].p] == [0.0, 0.5]


def test_nothing_is_dropped_at_random_in_frozen_stages() -> None:
    model = tbx.freeze_at(timm.create_model("ext_convnext_atto", drop_path_rate=0.9, features_only=True), 3).train()
    x = torch.randn(4, 3, 64, 64)
    assert torch.equal(model(x)[1], model(x)[1])
    assert not torch.equal(model(x)[3], model(x)[3])


def test_frozen_stages_stay_frozen_in_a_pyramid_in_training() -> None:
    made = tbx.pyramid("ext_resnet18", 8, "P3-P5", freeze_at=2).train()
    assert not [name for name, p in made.named_parameters() if p.requires_grad and "body.layer1" in name]
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in made.modules()) == 5
    assert sum(isinstance(module, nn.BatchNorm2d) for module in made.modules()) == 15


@pytest.mark.parametrize("n", [-1, 6, 1.0, "2", None])
def test_a_stage_that_is_not_there_is_an_error(n: object) -> None:
    with pytest.raises(ValueError, match="whole number from 0 to 5; got"):
        tbx.freeze_at(timm.create_model("ext_resnet18"), n)


def test_a_module_without_stages_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a timm model or a features_only model; got Linear"):
        tbx.freeze_at(nn.Linear(1, 1), 2)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
@pytest.mark.parametrize("prefix", ["", "ext_"])
def test_synchronised_norms_give_the_same_in_eval_mode_under_the_same_keys(prefix: str, name: str) -> None:
    model = testing.calibrate(timm.create_model(prefix + name, num_classes=10)).eval()
    x = testing.image(model, 64, 64)
    expected, keys = model(x), list(model.state_dict())
    converted = tbx.convert_sync_batchnorm(model)
    assert any(isinstance(module, (nn.SyncBatchNorm, CpuSyncBatchNorm)) for module in converted.modules())
    assert sorted(converted.state_dict()) == sorted(keys)
    torch.testing.assert_close(converted(x), expected)
    frozen = tbx.freeze_at(converted, 2)
    assert any(isinstance(module, FrozenBatchNorm2d) for module in frozen.modules()) or prefix == ""
    torch.testing.assert_close(frozen(x), expected, rtol=1e-4, atol=1e-4)


def test_synchronised_norms_reach_the_full_model_of_a_wrapper() -> None:
    wrapper = tbx.convert_sync_batchnorm(tbx.pyramid("ext_efficientnet_b0", 8, "P3-P5", freeze_at=2)).body
    full = wrapper.full_model()
    assert isinstance(full.blocks[3][0].bn1, (nn.SyncBatchNorm, CpuSyncBatchNorm))
    assert isinstance(full.blocks[0][0].bn1, FrozenBatchNorm2d)


def test_group_norms_keep_weights_and_biases_but_not_the_function() -> None:
    model = testing.calibrate(timm.create_model("ext_tf_efficientnet_b0", num_classes=10)).eval()
    x = testing.image(model, 64, 64)
    before, weight = model(x), model.blocks[1][0].bn2.weight
    changed = tbx.convert_groupnorm(model, 16)
    assert changed.blocks[1][0].bn2.weight is weight
    assert changed.blocks[1][0].bn3.num_groups == 8  # of 24 channels
    assert {norm.eps for norm in changed.modules() if isinstance(norm, nn.GroupNorm)} == {1e-3}  # TensorFlow's
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in changed.modules())
    assert (changed(x) - before).abs().max() > 0.1
    with pytest.raises(ValueError, match="has no batch norm"):
        tbx.convert_groupnorm(changed)
    with pytest.raises(ValueError, match=r"bn1 holds an activation; .*split_norm_act"):
        tbx.convert_groupnorm(timm.create_model("efficientnet_b0"))


def test_a_synchronised_norm_has_the_tensors_and_settings_of_the_norm_that_it_replaces() -> None:
    norm = nn.BatchNorm2d(4, eps=1e-3, momentum=0.2).eval()
    (converted,) = tbx.convert_sync_batchnorm(nn.Sequential(norm))
    for found in (converted, tbx.convert_sync_batchnorm(copy.deepcopy(norm))):
        assert isinstance(found, (nn.SyncBatchNorm, CpuSyncBatchNorm))
        for setting in ("eps", "momentum", "affine", "track_running_stats", "num_features", "training"):
            assert getattr(found, setting) == getattr(norm, setting)
    assert converted.weight is norm.weight
    assert converted.running_mean is norm.running_mean
