"""Feature wrappers: each test is named after what stock timm 1.0.31 gets wrong and ours does right."""

import copy
import io

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from transformers import TimmBackbone, TimmBackboneConfig

from timm_backbones_ext import testing
from timm_backbones_ext.features import FeatureList, wrap

KINDS = ["list", "dict", "hook", "getter", "fx"]
FAMILIES = ["resnet18", "convnext_atto", "efficientnet_b0"]


def features(name: str, **kwargs: object) -> torch.nn.Module:
    """A wrapper of ours around any timm model, with comparable weights."""
    torch.manual_seed(0)
    return wrap(testing.calibrate(timm.create_model(name)), **kwargs)


def maps(wrapper: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    out = wrapper(x)
    return list(out.values()) if isinstance(out, dict) else out


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("indices", [(0, 1, 2, 3), (3, 1), (-1, 0, -1), 2])
def test_out_indices_come_in_any_order_and_repeat(name: str, kind: str, indices: object) -> None:
    wrapper = features(name, feature_cls=kind, out_indices=indices).eval()
    x = torch.randn(1, 3, 64, 64)
    full = wrapper.full_model()
    _, levels = full.forward_intermediates(x)
    wanted = [levels[i] for i in (range(-2, 0) if isinstance(indices, int) else indices)]
    if kind == "dict" and indices == (-1, 0, -1):
        wanted = wanted[:2]  # a dict holds a level once
    got = maps(wrapper, x)
    assert [tuple(level.shape) for level in got] == [tuple(level.shape) for level in wanted]
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    if kind != "dict":
        assert wrapper.feature_info.channels() == [level.shape[1] for level in got]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_parameter_is_left_without_a_gradient(name: str, kind: str) -> None:
    wrapper = features(name, feature_cls=kind, out_indices=(0, 1)).train()
    sum(level.square().mean() for level in maps(wrapper, torch.randn(2, 3, 64, 64))).backward()
    assert [key for key, parameter in wrapper.named_parameters() if parameter.grad is None] == []
    assert sum(p.numel() for p in wrapper.parameters()) < sum(p.numel() for p in wrapper.full_model().parameters()) / 2


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_layer_decay_finds_the_groups_of_the_classifier(name: str, kind: str) -> None:
    def rates(model: torch.nn.Module) -> dict[str, float]:
        names = {id(p): key for key, p in model.named_parameters()}
        optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, layer_decay=0.7)
        return {names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}

    wrapper = features(name, feature_cls=kind)
    classifier = wrapper.full_model()
    full = rates(classifier)
    mine = {wrapper.full_name(key): rate for key, rate in rates(wrapper).items()}
    assert len(set(mine.values())) > 5
    deepest = max(full.values())
    shift = max(mine.values()) / max(full[key] for key in mine)  # the head is a group of its own, which the maps lack
    assert deepest == 1.0
    assert {key: round(rate, 9) for key, rate in mine.items()} == {key: round(full[key] * shift, 9) for key in mine}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_the_same_gradients(name: str, kind: str) -> None:
    x = torch.randn(2, 3, 64, 64)
    grads = []
    for enable in (False, True):
        wrapper = features(name, feature_cls=kind).train()
        wrapper.set_grad_checkpointing(enable)
        sum(level.square().mean() for level in maps(wrapper, x)).backward()
        grads.append([parameter.grad for parameter in wrapper.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["list", "getter"])
def test_gradient_checkpointing_keeps_less(kind: str) -> None:
    def kept(enable: bool) -> int:
        wrapper = features("resnet18", feature_cls=kind).train()
        wrapper.set_grad_checkpointing(enable)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
            maps(wrapper, torch.randn(2, 3, 64, 64))
        return sum(sizes)

    assert kept(True) < 0.8 * kept(False)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_path_takes_a_full_models_checkpoint(kind: str, tmp_path) -> None:
    classifier = testing.calibrate(timm.create_model("resnet18", num_classes=7)).eval()
    save_file(classifier.state_dict(), tmp_path / "classifier.safetensors")
    wrapper = timm.create_model(
        "ext_resnet18",
        features_only=True,
        feature_cls=kind,
        out_indices=(1, 2),
        checkpoint_path=str(tmp_path / "classifier.safetensors"),
    ).eval()
    x = torch.randn(1, 3, 64, 64)
    _, levels = classifier.forward_intermediates(x)
    for got, expected in zip(maps(wrapper, x), levels[1:3], strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_wrapper_loads_its_own_keys_and_the_full_models(name: str) -> None:
    trained = features(name)
    for state_dict in (trained.state_dict(), trained.full_model().state_dict()):
        fresh = wrap(timm.create_model(name))
        fresh.load_state_dict(state_dict)
        assert all(torch.equal(value, trained.state_dict()[key]) for key, value in fresh.state_dict().items())


def test_a_wrapper_still_refuses_what_is_missing_or_unknown() -> None:
    wrapper = features("resnet18")
    weights = wrapper.full_model().state_dict()
    del weights["layer1.0.conv1.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*layer1\.0\.conv1\.weight"):
        wrapper.load_state_dict(weights)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*stranger"):
        wrapper.load_state_dict({**wrapper.state_dict(), "stranger": torch.zeros(1)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "edits"),
    [("resnet18", "dcn, frozen_bn"), ("convnext_atto", "grn, out_norm, kernel"), ("efficientnet_b0", "in_chans(4)")],
)
def test_to_empty_and_init_weights_make_a_complete_model(name: str, edits: str, kind: str) -> None:
    wrapper = timm.create_model(f"ext_{name}", features_only=True, feature_cls=kind, edits=edits, device="meta")
    wrapper.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*wrapper.parameters(), *wrapper.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else -1)  # what empty memory may hold
    wrapper.init_weights()
    assert all(level.isfinite().all() for level in maps(wrapper.eval(), testing.image(wrapper, 64, 64)))
    neutral = [value for key, value in wrapper.named_parameters() if "conv_offset" in key or ".grn." in key]
    assert neutral or name == "efficientnet_b0"
    assert not any(parameter.any() for parameter in neutral)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrapper_can_be_copied(kind: str) -> None:
    wrapper = features("resnet18", feature_cls=kind).eval()
    twin = copy.deepcopy(wrapper)
    with torch.no_grad():
        twin.full_model().conv1.weight.zero_()
    x = torch.randn(1, 3, 64, 64)
    assert not torch.equal(maps(twin, x)[0], maps(wrapper, x)[0])


def test_a_wrapper_can_be_saved_whole() -> None:
    wrapper = features("resnet18").eval()
    buffer = io.BytesIO()
    torch.save(wrapper, buffer)
    buffer.seek(0)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(torch.load(buffer, weights_only=False)(x)[-1], wrapper(x)[-1])


def test_the_full_model_follows_what_is_done_to_the_wrapper() -> None:
    wrapper = torch.nn.SyncBatchNorm.convert_sync_batchnorm(features("resnet18"))
    with torch.no_grad():
        wrapper["bn1"].running_mean.fill_(3)
    assert wrapper.full_model().bn1.running_mean.eq(3).all()
    assert features("resnet18").bfloat16().full_model().layer4[1].conv2.weight.dtype == torch.bfloat16


def test_asking_for_the_full_model_changes_nothing_in_the_wrapper() -> None:
    wrapper = features("resnet18", out_indices=(0, 1)).train()
    wrapper["bn1"].eval()  # a frozen stem
    wrapper["layer1"].bfloat16()
    wrapper.full_model()
    assert [wrapper["bn1"].training, wrapper["layer1"].training] == [False, True]
    assert wrapper["layer1"][0].conv1.weight.dtype == torch.bfloat16
    assert wrapper["conv1"].weight.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_class_is_given_by_name_in_any_case(kind: str) -> None:
    assert type(features("resnet18", feature_cls=kind.upper())) is type(features("resnet18", feature_cls=kind))
    assert type(features("resnet18")) is FeatureList


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"out_indices": (7,)}, "levels 0 to 4"),
        ({"out_indices": (5,)}, "levels 0 to 4"),
        ({"out_indices": (-6,)}, "levels 0 to 4"),
        ({"out_indices": ()}, "levels 0 to 4"),
        ({"out_indices": 9}, "levels 0 to 4"),
        ({"feature_cls": "hooks"}, "there is: list, dict, hook, getter, fx"),
    ],
)
def test_a_level_or_class_that_is_not_there_is_a_clear_error(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timm.create_model("ext_resnet18", features_only=True, **kwargs)


@pytest.mark.parametrize("kind", KINDS)
def test_out_norms_come_after_the_maps_in_any_order(kind: str) -> None:
    model = testing.calibrate(timm.create_model("ext_convnext_atto", edits="out_norm")).eval()
    x = torch.randn(1, 3, 64, 64)
    raw = [level.detach() for level in testing.outputs(model, x)]
    for norm in model.out_norms.values():
        torch.nn.init.uniform_(norm.weight)
    wanted = [model.out_norms[str(i)](raw[i]) for i in (3, 1)]
    wrapper = wrap(copy.deepcopy(model), feature_cls=kind, out_indices=(3, 1)).eval()
    for got, expected in zip(maps(wrapper, x), wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    sum(level.square().mean() for level in maps(wrapper, x)).backward()
    assert [name for name, parameter in wrapper.named_parameters() if parameter.grad is None] == []
    wrapper.set_grad_checkpointing()
    again = wrap(timm.create_model("ext_convnext_atto", edits="out_norm"), feature_cls=kind, out_indices=(3, 1)).eval()
    again.load_state_dict(model.state_dict())
    for got, expected in zip(maps(again, x), wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    full = wrapper.full_model()
    assert full.state_dict().keys() == {key for key in model.state_dict() if not key.startswith("head.fc")}


@pytest.mark.parametrize("name", ["ext_resnet18", "ext_convnext_atto", "ext_efficientnet_b0", "ext_vgg11"])
def test_transformers_gets_all_levels_as_hidden_states(name: str) -> None:
    backbone = TimmBackbone(TimmBackboneConfig(backbone=name, out_indices=[1, 2])).eval()
    x = torch.randn(1, 3, 64, 64)
    out = backbone(x, output_hidden_states=True)
    assert len(out.hidden_states) == 3  # deeper stages are left out
    for again in (backbone(x), out):
        for level, index in zip(again.feature_maps, (1, 2), strict=True):
            torch.testing.assert_close(level, out.hidden_states[index])


@pytest.mark.parametrize("kind", ["list", "dict"])
@pytest.mark.parametrize("name", FAMILIES)
def test_levels_set_from_outside_and_set_back_keep_the_order_asked_for(name: str, kind: str) -> None:
    wrapper = features(name, feature_cls=kind, out_indices=(3, 1)).eval()
    x = torch.randn(1, 3, 64, 64)
    before = maps(wrapper, x)
    own, layers = wrapper.return_layers, wrapper.feature_info.info
    wrapper.return_layers = {layer["module"]: str(level) for level, layer in enumerate(layers)}
    every = maps(wrapper, x)
    wrapper.return_layers = own
    for level, again in zip(maps(wrapper, x), (every[3], every[1]), strict=True):
        torch.testing.assert_close(level, again)
    assert len(before) == 2
    torch.testing.assert_close(before, maps(wrapper, x))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_num_features_is_the_width_of_the_last_map_and_forward_features_gives_it(name: str, kind: str) -> None:
    wrapper = features(name, feature_cls=kind, out_indices=(1, 3)).eval()
    x = torch.randn(1, 3, 64, 64)
    last = wrapper.forward_features(x)
    assert last.shape[1] == wrapper.num_features
    torch.testing.assert_close(last, maps(wrapper, x)[-1])
