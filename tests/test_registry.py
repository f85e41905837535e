"""Names, tags and licences: derived from timm's registry, and nothing of timm's own touched."""

import subprocess
import sys

import pytest
import timm
import torch
from timm.models import get_arch_pretrained_cfgs

import timm_backbones_ext as tbx
from timm_backbones_ext.registry import ARCHITECTURES, BUILT_IN, VARIANTS
from timm_backbones_ext.weights.files import HINT


@pytest.mark.parametrize("name", sorted(BUILT_IN.difference(ARCHITECTURES)))
def test_tags_hub_ids_and_licences_are_the_bases(name: str) -> None:
    base = VARIANTS[name].base
    ours, theirs = get_arch_pretrained_cfgs(name), get_arch_pretrained_cfgs(base)
    assert [tag.removeprefix(name) for tag in ours] == [tag.removeprefix(base) for tag in theirs]
    for mine, origin in zip(ours.values(), theirs.values(), strict=True):
        assert mine.architecture == name
        assert mine.tag == origin.tag
        assert mine.hf_hub_id == origin.hf_hub_id
        assert mine.hf_hub_filename == "model.safetensors"
        assert mine.url is None
        for field in ("license", "num_classes", "mean", "std", "first_conv", "classifier"):
            assert getattr(mine, field) == getattr(origin, field)
        multiple = max((item.multiple for item in tbx.parse_edits(VARIANTS[name].edits)), default=1)
        assert all(side % multiple == 0 for side in mine.input_size[1:])
        assert all(0 <= new - old < multiple for new, old in zip(mine.input_size, origin.input_size, strict=True))
        if mine.input_size == origin.input_size:
            assert mine.pool_size == origin.pool_size


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_an_architecture_of_our_own_is_its_own_base_and_has_no_weights(name: str) -> None:
    assert VARIANTS[name].base == name
    assert not timm.is_model(name.removeprefix("ext_"))
    (cfg,) = get_arch_pretrained_cfgs(name).values()
    assert cfg.architecture == name
    assert not cfg.has_weights
    with pytest.raises(tbx.WeightsError, match=f"{name} has no pretrained weights"):
        timm.create_model(name, pretrained=True)


def test_an_architecture_of_our_own_takes_a_variant_on_top() -> None:
    if "ext_test_cifar" not in VARIANTS:
        tbx.register_variant("ext_test_cifar", base="ext_resnet20_cifar", edits="eca")
    model = timm.create_model("ext_test_cifar", num_classes=3)
    assert model.edits == ("eca",)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    assert VARIANTS["ext_test_cifar"].family == "resnet"


def test_a_derived_tag_names_the_bases_repo() -> None:
    assert timm.get_pretrained_cfg("ext_resnet50_dcn").hf_hub_id == "timm/resnet50.a1_in1k"
    assert timm.get_pretrained_cfg("ext_resnet50_dcn.tv_in1k").hf_hub_id == "timm/resnet50.tv_in1k"


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_names_are_read_by_clients_and_mislead_none(name: str) -> None:
    assert name.startswith("ext_")
    assert not any(word in name for word in ("dla", "tresnet", "vit", "densenet"))
    assert timm.models.model_entrypoint(name).__doc__


@pytest.mark.slow
def test_timms_own_registry_is_what_it_was() -> None:
    code = "import timm; print(sorted((n, f.__module__) for n, f in timm.models._registry._model_entrypoints.items()))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", f"{imports}{code}"],
            env={"TIMM_BACKBONES_EXT_AUTOLOAD": "0", "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for imports in ("", "import timm_backbones_ext;")
    ]
    plain, ours = (set(eval(run)) for run in runs)
    assert plain <= ours
    assert {name for name, _ in ours - plain} == BUILT_IN


def test_image_sizes_of_an_edit_that_needs_multiples_are_rounded_up() -> None:
    if "ext_test_padded" not in VARIANTS:
        tbx.register_variant("ext_test_padded", base="tf_efficientnetv2_b3", edits="static_pad")
    cfg = timm.get_pretrained_cfg("ext_test_padded")
    assert timm.get_pretrained_cfg("tf_efficientnetv2_b3").test_input_size == (3, 300, 300)
    assert (cfg.input_size, cfg.test_input_size) == ((3, 256, 256), (3, 320, 320))


def test_a_name_of_ones_own_is_registered() -> None:
    if "ext_test_own" not in VARIANTS:
        tbx.register_variant("ext_test_own", base="resnet18", edits=["dcn(stages=[4])", "in_chans(5)"])
    model = timm.create_model("ext_test_own", num_classes=3, edits="frozen_bn")
    assert model.edits == ("dcn(stages=(4,))", "in_chans(n=5)", "frozen_bn")
    assert model(torch.randn(2, 5, 64, 64)).shape == (2, 3)
    assert timm.get_pretrained_cfg("ext_test_own.a2_in1k").hf_hub_id == "timm/resnet18.a2_in1k"


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("my50", {"base": "resnet50"}, "starts with 'ext_'"),
        ("ext_my-50", {"base": "resnet50"}, "identifier"),
        ("ext_resnet50", {"base": "resnet50"}, "registered already"),
        ("ext_my50", {"base": "resnet51"}, "no timm architecture"),
        (
            "ext_my50",
            {"base": "vit_tiny_patch16_224"},
            "'ext_my50' cannot be built: expected a full timm model of one of",
        ),
        ("ext_my50", {"base": "resnet18", "edits": "kernel"}, "cannot be built: edit 'kernel' is for convnext"),
        ("ext_my50", {"base": "resnet18", "edits": "dcn, sac"}, r"cannot be built: sac: expected a plain nn.Conv2d"),
        ("ext_my50", {"base": "resnet18", "edits": "in_chans(2)"}, "cannot be built: in_chans: conv1 has 3"),
        ("ext_my50", {"base": "resnet50.a1_in1k"}, "no timm architecture"),
        ("ext_my50", {"base": "resnet50", "edits": "dnc"}, "did you mean 'dcn'"),
    ],
)
def test_a_name_that_cannot_be_registered_is_refused(name: str, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tbx.register_variant(name, **kwargs)
    assert name == "ext_resnet50" or not timm.is_model(name)


def test_an_unknown_argument_is_an_error() -> None:
    with pytest.raises(TypeError, match="not_an_argument"):
        timm.create_model("ext_resnet18", not_an_argument=1)


def test_the_hint_tells_plain_timm_what_to_install() -> None:
    assert HINT == "needs_pip_install_timm-backbones-ext"  # part of the format: published configs hold it
