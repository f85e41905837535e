"""Feature models: TorchScript, checkpoints of the base, live models, and what the full model behind them holds."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import FeatureDictNet, FeatureGraphNet, FeatureHookNet, FeatureListNet
from timm.models._features import FeatureGetterNet

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.features import FeatureDict, FeatureGetter, FeatureGraph, FeatureHook, FeatureList, wrap

KINDS = ["list", "dict", "hook", "getter", "fx"]
CLASSES = [
    (FeatureList, FeatureListNet),
    (FeatureDict, FeatureDictNet),
    (FeatureHook, FeatureHookNet),
    (FeatureGetter, FeatureGetterNet),
    (FeatureGraph, FeatureGraphNet),
]


def features(name: str, **kwargs: object) -> torch.nn.Module:
    """A wrapper of ours around any timm model, with comparable weights."""
    return wrap(testing.calibrate(timm.create_model(name)), **kwargs)


def maps(wrapper: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    out = wrapper(x)
    return list(out.values()) if isinstance(out, dict) else out


SCRIPTED = [
    *((name, kind) for name in ("convnext_atto", "efficientnet_b0", "vgg11_bn") for kind in ("getter", "fx")),
    *(
        (name, kind)
        for name in ("resnet18", "convnext_atto", "efficientnet_b0", "vgg11_bn")
        for kind in ("list", "dict")
    ),
    ("resnet18", "fx"),
]
"""timm scripts these, too, but for EfficientNet's "list" and "dict", which it cannot make."""


@pytest.mark.parametrize(("name", "kind"), SCRIPTED)
def test_torchscript_gives_the_same_maps(name: str, kind: str) -> None:
    wrapper = testing.create(f"ext_{name}", features_only=True, feature_cls=kind, out_indices=(3, 1)).eval()
    x = torch.randn(1, 3, 64, 64)
    for got, expected in zip(maps(torch.jit.script(wrapper), x), maps(wrapper, x), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", ["getter", "fx"])
def test_torchscript_gives_a_dict_where_it_is_asked_for(kind: str) -> None:
    wrapper = features("convnext_atto", feature_cls=kind, out_indices=(3, 1), return_dict=True).eval()
    x = torch.randn(1, 3, 64, 64)
    got, expected = torch.jit.script(wrapper)(x), wrapper(x)
    assert list(got) == list(expected) == ["3", "1"]
    for name, level in expected.items():
        torch.testing.assert_close(got[name], level)


@pytest.mark.parametrize(("name", "kind"), [("resnet18", "getter"), ("resnet18", "hook"), ("vgg11_bn", "hook")])
def test_torchscript_takes_neither_hooks_nor_the_getter_of_a_resnet_as_in_timm(name: str, kind: str) -> None:
    for prefix in ("", "ext_"):
        with pytest.raises((RuntimeError, AttributeError)):
            torch.jit.script(testing.create(prefix + name, features_only=True, feature_cls=kind))


@pytest.mark.parametrize("route", ["checkpoint_path", "load_state_dict"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_the_base_loads_into_an_edited_feature_model(kind: str, route: str, tmp_path: Path) -> None:
    base = testing.calibrate(timm.create_model("resnet18", num_classes=7)).eval()
    kwargs = {"features_only": True, "feature_cls": kind, "out_indices": (1, 2), "edits": "eca(stages=[1])"}
    if route == "checkpoint_path":
        save_file(base.state_dict(), tmp_path / "base.safetensors")
        wrapper = timm.create_model("ext_resnet18_dcn", checkpoint_path=tmp_path / "base.safetensors", **kwargs)
    else:
        wrapper = timm.create_model("ext_resnet18_dcn", **kwargs)
        wrapper.load_state_dict(base.state_dict())
    x = torch.randn(1, 3, 64, 64)
    expected = base.forward_intermediates(x, intermediates_only=True)[1:3]
    for got, level in zip(maps(wrapper.eval(), x), expected, strict=True):
        torch.testing.assert_close(got, level, rtol=1e-4, atol=1e-4)
    own = {wrapper.full_name(key): value for key, value in wrapper.state_dict().items()}
    assert all(torch.equal(value, base.state_dict()[key]) for key, value in own.items() if key in base.state_dict())
    assert any("conv_offset" in key for key in own)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_with_the_first_edits_loads_and_one_with_a_missing_key_does_not(kind: str) -> None:
    first = testing.calibrate(timm.create_model("ext_convnext_atto", edits="grn")).eval()
    edits = ["grn", "kernel(9)", "out_norm"]
    wrapper = timm.create_model("ext_convnext_atto", edits=edits, features_only=True, feature_cls=kind)
    wrapper.load_state_dict(first.state_dict())
    x = torch.randn(1, 3, 64, 64)
    full = wrapper.full_model().eval()
    torch.testing.assert_close(full.forward_features(x), first.forward_features(x), rtol=1e-4, atol=1e-4)
    weights = dict(first.state_dict())
    del weights["stages.1.blocks.0.conv_dw.bias"]
    with pytest.raises(RuntimeError, match=r"stages.1.*blocks.0.conv_dw.bias"):
        wrapper.load_state_dict(weights)


def test_wrapping_a_live_model_leaves_it_as_it_is() -> None:
    model = testing.calibrate(timm.create_model("ext_resnet18", edits="dcn", num_classes=10)).eval()
    before, x = str(model), torch.randn(1, 3, 64, 64)
    expected = model(x)
    for kind in KINDS:
        wrapper = wrap(model, feature_cls=kind, out_indices=(1, 2))
        assert dict(wrapper.named_parameters()).keys()
        tbx.freeze_at(wrapper, 2)
    assert str(model) == before
    assert torch.equal(model(x), expected)
    assert all(module is not model for module in wrapper.modules())
    shared = wrap(model)
    with torch.no_grad():
        shared["conv1"].weight.zero_()
    assert not model.conv1.weight.any()  # the tensors are the same


def test_a_feature_model_is_not_wrapped_again() -> None:
    with pytest.raises(ValueError, match="wrap: expected a full timm model with feature_info; got FeatureList"):
        wrap(features("resnet18"))
    with pytest.raises(ValueError, match="got Linear"):
        wrap(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_stages_that_are_left_out_follow_the_wrapper(kind: str) -> None:
    """`full_model()` is complete: in dtype, in its mode of training and after an initialisation."""
    wrapper = features("resnet18", feature_cls=kind, out_indices=(0, 1)).eval().bfloat16()
    full = wrapper.full_model()
    assert {t.dtype for t in full.state_dict().values() if t.is_floating_point()} == {torch.bfloat16}
    assert {module.training for module in full.modules()} == {False}
    assert {module.training for module in wrapper.train().full_model().modules()} == {True}
    empty = timm.create_model("ext_resnet18", features_only=True, feature_cls=kind, out_indices=(0, 1), device="meta")
    empty.to_empty(device="cpu")
    whole = empty.full_model()
    assert not any(tensor.is_meta for tensor in (*whole.parameters(), *whole.buffers()))
    norm = whole.layer4[1].bn2
    assert norm.running_var.eq(1).all()  # not what empty memory held
    assert norm.running_mean.eq(0).all()


@pytest.mark.parametrize(("kind", "cls"), [*zip(KINDS, CLASSES, strict=True)])
def test_each_class_is_of_timms_class_of_the_same_name(kind: str, cls: tuple[type, type]) -> None:
    ours, timms = cls
    wrapper = features("resnet18", feature_cls=kind)
    assert type(wrapper) is ours
    assert isinstance(wrapper, timms)
    assert type(features("resnet18", feature_cls=timms)) is ours


def test_a_graph_that_recomputes_keeps_less_and_runs_twice() -> None:
    def run(enable: bool) -> tuple[int, int]:
        wrapper = features("resnet18", feature_cls="fx").train()
        wrapper.set_grad_checkpointing(enable)
        calls, sizes = [], []
        wrapper.graph_module.get_submodule("layer3.0.conv1").register_forward_hook(lambda *_: calls.append(1))
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
            out = sum(level.square().mean() for level in maps(wrapper, torch.randn(2, 3, 64, 64)))
        kept = sum(sizes)
        out.backward()
        return len(calls), kept

    (once, much), (twice, little) = run(False), run(True)
    assert (once, twice) == (1, 2)
    assert little < 0.5 * much
