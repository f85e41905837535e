"""transformers: backbones, detectors and segmenters on them, classifiers, and its Trainer."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from transformers import (
    AutoBackbone,
    DetrConfig,
    DetrForObjectDetection,
    RTDetrConfig,
    RTDetrForObjectDetection,
    TimmBackboneConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    pipeline,
)
from transformers.models.detr.modeling_detr import replace_batch_norm

import timm_backbones_ext as tbx
from timm_backbones_ext import testing

CLIENT = "transformers"
SMALL = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 5,
    "num_labels": 3,
}


def images() -> Tensor:
    return torch.rand(2, 3, 96, 96)


def boxes() -> list[dict[str, Tensor]]:
    """A box in each image, as centre and size in parts of the side."""
    return [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]])}] * 2


def config(name: str, *levels: int) -> TimmBackboneConfig:
    return TimmBackboneConfig(backbone=name, out_indices=list(levels))


def test_a_backbone_gives_maps_and_hidden_states(name: str, learns: Callable) -> None:
    """`AutoBackbone` from a `TimmBackboneConfig`, with hidden states"""
    backbone = AutoBackbone.from_config(config(name, -3, -2, -1))
    out = backbone(images(), output_hidden_states=True)
    assert [level.shape[1] for level in out.feature_maps] == backbone.channels
    assert len(out.hidden_states) == len(backbone.stage_names)
    learns(backbone, sum(level.square().mean() for level in out.feature_maps))


def detects(learns: Callable, **backbone: object) -> None:
    small = {**SMALL, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    detr = DetrForObjectDetection(DetrConfig(**backbone, **small)).train()
    out = detr(images(), labels=boxes())
    assert out.pred_boxes.shape == (2, 5, 4)
    learns(detr.model.backbone, out.loss)


def test_detr_trains(name: str, learns: Callable) -> None:
    """`DetrForObjectDetection` with a `TimmBackboneConfig`"""
    detects(learns, backbone_config=config(name, -3, -2, -1))


def test_detr_with_use_timm_backbone_trains(name: str, learns: Callable, request: pytest.FixtureRequest) -> None:
    """`DetrForObjectDetection` with `use_timm_backbone=True, backbone=NAME`"""
    if "convnext" in name:
        reason = "It asks for levels 1 to 4; a ConvNeXt has 0 to 3. Give it a `TimmBackboneConfig`"
        request.applymarker(
            pytest.mark.xfail(reason=f"{reason} (timm's `convnext_atto` fails too).", raises=ValueError, strict=True)
        )
    detects(learns, use_timm_backbone=True, use_pretrained_backbone=False, backbone=name)


def test_use_timm_backbone_fails_with_a_convnext_of_timm_too(learns: Callable) -> None:
    with pytest.raises(IndexError):
        detects(learns, use_timm_backbone=True, use_pretrained_backbone=False, backbone="convnext_atto")


def test_rt_detr_trains(name: str, learns: Callable) -> None:
    """`RTDetrForObjectDetection` on three maps"""
    sizes = {**SMALL, "num_queries": 10, "num_denoising": 4, "encoder_hidden_dim": 32, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 2, "decoder_in_channels": [32] * 3, "num_feature_levels": 3}
    backbone = config(name, -3, -2, -1)
    channels = timm.create_model(name, features_only=True, out_indices=(-3, -2, -1)).feature_info.channels()
    made = RTDetrConfig(backbone_config=backbone, encoder_in_channels=channels, **sizes)
    detr = RTDetrForObjectDetection(made).train()
    learns(detr.model.backbone, detr(images(), labels=boxes()).loss)


def test_upernet_trains(name: str, learns: Callable) -> None:
    """`UperNetForSemanticSegmentation` on four maps"""
    made = UperNetConfig(
        backbone_config=config(name, -4, -3, -2, -1),
        hidden_size=32,
        num_labels=3,
        use_auxiliary_head=False,
        pool_scales=[1, 2],
    )
    upernet = UperNetForSemanticSegmentation(made).train()
    out = upernet(images(), labels=torch.randint(3, (2, 96, 96)))
    assert out.logits.shape == (2, 3, 96, 96)
    learns(upernet.backbone, out.loss)


def test_frozen_batch_norms_of_detr_change_nothing(name: str) -> None:
    """DETR's `replace_batch_norm`: outputs stay in eval mode"""
    model = testing.calibrate(timm.create_model(name, features_only=True)).eval()
    frozen, x = copy.deepcopy(model), images()
    with torch.no_grad():
        replace_batch_norm(frozen)
        assert testing.largest(frozen(x), model(x)) < 1e-4


def test_a_wrapped_model_gives_what_timm_gives(name: str, learns: Callable) -> None:
    """`TimmWrapperModel` from a config"""
    wrapped = TimmWrapperModel(TimmWrapperConfig(architecture=name, model_args={"drop_rate": 0.0}))
    out = wrapped(images(), output_hidden_states=True)
    assert out.last_hidden_state.shape[-1] == 3
    assert len(out.hidden_states) == len(wrapped.timm_model.feature_info)
    learns(wrapped.timm_model, out.pooler_output.square().mean())


class Watch(TrainerCallback):
    """Looks at the gradients that the Trainer has made, just before it uses them."""

    def __init__(self, check: Callable[[nn.Module], None]) -> None:
        self.check, self.seen = check, 0

    def on_pre_optimizer_step(self, *args: object, model: nn.Module, **kwargs: object) -> None:
        self.check(model)
        self.seen += 1


def test_trainer_steps_with_a_learning_rate_per_layer(name: str, learned: Callable, tmp_path: Path) -> None:
    """`Trainer` on `TimmWrapperForImageClassification`, timm's optimiser with `layer_decay`"""
    model = TimmWrapperForImageClassification(TimmWrapperConfig(architecture=name, num_labels=3))
    optimizer = create_optimizer_v2(model.timm_model, "adamw", lr=1e-3, layer_decay=0.7)
    assert len({group["lr_scale"] for group in optimizer.param_groups}) > 3
    before = copy.deepcopy(model.state_dict())
    data = [{"pixel_values": image, "labels": label} for image, label in zip(torch.rand(4, 3, 64, 64), (0, 1, 2, 0))]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to="none", use_cpu=True
    )
    watch = Watch(learned)
    trainer = Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None), callbacks=[watch])
    trainer.train()
    assert watch.seen == 2
    assert all(not torch.equal(before[key], tensor) for key, tensor in model.named_parameters())


def test_a_folder_of_ours_is_a_pipeline(name: str, tmp_path: Path) -> None:
    """`pipeline("image-classification")` on a folder of `tbx.save`"""
    model = timm.create_model(name, num_classes=3).eval()
    tbx.save(model, tmp_path)
    classify = pipeline("image-classification", model=str(tmp_path))
    found = classify(Image.new("RGB", (80, 80), "teal"))
    assert len(found) == 3
    assert sum(label["score"] for label in found) == pytest.approx(1, abs=1e-4)
