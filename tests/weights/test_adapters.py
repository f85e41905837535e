"""Adapters of the real `peft` package, in both directions."""

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import timm_backbones_ext as tbx
from timm_backbones_ext import testing

peft = pytest.importorskip("peft")

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
NETS = {
    "test_resnet": ("conv2", "layer1.0.conv1"),
    "test_convnext": ("fc1", "fc2"),
    "test_efficientnet": ("conv_pwl", "classifier"),
}
"""Targets: convs of 1x1 and 3x3, linear layers, and a classifier."""


def plain(base: str) -> torch.nn.Module:
    return testing.trained(base, num_classes=4).double()


def adapted(base: str, **options: object) -> torch.nn.Module:
    """A model of timm's that PEFT has trained for two steps."""
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=list(NETS[base]), **options)
    model = peft.get_peft_model(plain(base), config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model.eval()(testing.image(plain(base), 64, 64)).square().mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("base", NETS)
def test_an_adapter_of_peft_computes_the_same_as_an_edit_and_back(base: str, tmp_path: Path) -> None:
    heads = None if "classifier" in NETS[base] else [plain(base).pretrained_cfg["classifier"].rpartition(".")[2]]
    theirs = adapted(base, use_rslora=base == "test_convnext", modules_to_save=heads)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = tbx.load_adapter(plain(base), tmp_path / "theirs").eval()
    x = testing.image(plain(base), 64, 64)
    expected = theirs(x)
    assert (expected - plain(base).eval()(x)).abs().max() > 1e-3
    torch.testing.assert_close(ours(x), expected, rtol=1e-6, atol=1e-6)
    assert any(item.startswith("lora(rank=4") for item in ours.edits)
    tbx.save_adapter(ours, tmp_path / "ours")
    saved = json.loads((tmp_path / "ours" / CONFIG).read_text())["modules_to_save"]
    assert saved == (heads and [plain(base).pretrained_cfg["classifier"]])
    again = peft.PeftModel.from_pretrained(plain(base), tmp_path / "ours").eval()
    torch.testing.assert_close(again(x), expected, rtol=1e-6, atol=1e-6)
    loaded = tbx.load_adapter(copy.deepcopy(ours), tmp_path / "ours")  # beside the same layers
    torch.testing.assert_close(loaded(x), expected, rtol=1e-6, atol=1e-6)


def changed(folder: Path, tensors: dict | None = None, **config: object) -> None:
    if tensors is not None:
        save_file(tensors, folder / TENSORS)
    (folder / CONFIG).write_text(json.dumps({**json.loads((folder / CONFIG).read_text()), **config}))


def test_an_adapter_that_is_not_one_of_this_model_changes_nothing(tmp_path: Path) -> None:
    """In one test, since each case changes the same files."""
    tbx.save_adapter(tbx.edit(plain("test_resnet"), "lora(rank=4, targets='conv3x3')"), tmp_path)
    right, settings = load_file(tmp_path / TENSORS), (tmp_path / CONFIG).read_text()
    first = next(key for key in right if "lora_A" in key)
    model = plain("test_resnet")
    cases = [
        ({**right, "base_model.model.strange": torch.zeros(1)}, {}, "expected tensors of LoRA and of the classifier"),
        ({key: value for key, value in right.items() if key != first}, {}, "expected both"),
        ({**right, first: right[first][:, :1].contiguous()}, {}, "nothing was loaded: .* the model has"),
        ({key.replace("layer4", "layer9"): value for key, value in right.items()}, {}, "no conv or linear layer"),
        ({**right, "base_model.model.fc.weight": torch.zeros(9, 96)}, {}, r"fc.weight is \(9, 96\)"),
        (None, {"use_dora": True}, "says use_dora"),
        (None, {"peft_type": "LOHA"}, "says LOHA"),
        (None, {"bias": "all"}, "says bias"),
        (None, {"r": "four"}, "is not the config of an adapter"),
        (None, {"r": 8}, "nothing was loaded"),
    ]
    for tensors, config, said in cases:
        changed(tmp_path, tensors, **config)
        with pytest.raises(tbx.WeightsError, match=said):
            tbx.load_adapter(model, tmp_path)
        assert not getattr(model, "edits", ())
        changed(tmp_path, right)
        (tmp_path / CONFIG).write_text(settings)
    with pytest.raises(tbx.WeightsError, match="the adapter's layers are not the model's"):
        tbx.load_adapter(tbx.edit(plain("test_resnet"), "lora(rank=4, stages=[1])"), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"adapter_model.safetensors; PEFT's save_pretrained"):
        tbx.load_adapter(model, tmp_path / "nowhere")


def test_what_peft_cannot_hold_is_not_written(tmp_path: Path) -> None:
    cases = {
        "eca": "PEFT's model is timm's, which has no eca",
        "frozen_bn": "has no edit lora",
        "lora(rank=32, stages=[1])": "layer1.0.conv2 is grouped or dilated",
    }
    with torch.device("meta"):
        model = timm.create_model("resnext50_32x4d")
    for edit, said in cases.items():
        with pytest.raises(ValueError, match=said):
            tbx.save_adapter(tbx.edit(copy.deepcopy(model), edit), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
