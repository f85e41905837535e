"""A trained ConvNeXt V1 in V2's blocks: load its weights, compare, train a step, hand the result to timm's V2."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from timm_backbones_ext import testing


@pytest.fixture(scope="module")
def v1() -> nn.Module:
    """With norms, LayerScale and a head as after training: nothing in it is near zero or at its initial value."""
    torch.manual_seed(0)
    return testing.calibrate(timm.create_model("convnext_atto", num_classes=10)).eval()


@pytest.fixture(scope="module")
def v2(v1: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """V2's blocks from V1's checkpoint, a file as timm publishes it."""
    file = tmp_path_factory.mktemp("v1") / "model.safetensors"
    save_file(v1.state_dict(), file)
    source = {"file": str(file), "num_classes": 10}
    return timm.create_model(
        "ext_convnext_atto", edits="grn(fold=True)", num_classes=10, pretrained=True, pretrained_cfg_overlay=source
    ).eval()


def images(model: nn.Module) -> Tensor:
    return testing.image(model, 64, 64, batch=4)


def test_v1s_checkpoint_gives_v1s_maps_and_logits_in_v2s_blocks(v1: nn.Module, v2: nn.Module) -> None:
    x = images(v1)
    assert testing.largest(testing.outputs(v2, x), testing.outputs(v1, x)) <= 1e-5
    assert all(block.gamma is None for stage in v2.stages for block in stage.blocks)
    for key, value in v1.state_dict().items():
        if "gamma" not in key and ".fc2." not in key:
            assert torch.equal(v2.state_dict()[key], value), key


def test_its_tensors_are_those_of_timms_v2(v2: nn.Module) -> None:
    timms = timm.create_model("convnextv2_atto", num_classes=10).eval()
    timms.load_state_dict(v2.state_dict(), strict=True)
    x = images(v2)
    assert torch.equal(timms(x), v2(x))


def test_a_step_trains_the_new_parts_and_lowers_the_loss(v2: nn.Module, tmp_path: Path) -> None:
    x, labels = images(v2), torch.arange(4)
    model = timm.create_model("convnextv2_atto", num_classes=10)
    model.load_state_dict(v2.state_dict())
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3)
    before = nn.functional.cross_entropy(model(x), labels)
    before.backward()
    new = {key: p for key, p in model.named_parameters() if ".grn." in key}
    assert new
    assert all(p.grad.norm() > 0 for p in new.values())
    optimizer.step()
    assert nn.functional.cross_entropy(model(x), labels) < before
    assert all(p.detach().any() for p in new.values())
    back = timm.create_model("ext_convnext_atto", edits="grn(fold=True)", num_classes=10).eval()
    back.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(back(x), model.eval()(x))
