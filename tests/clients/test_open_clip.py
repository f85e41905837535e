"""open_clip: our names as the image tower of CLIP."""

from collections.abc import Callable

import pytest
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from torch import nn

CLIENT = "open-clip-torch"
TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}


def clip(name: str, **tower: object) -> nn.Module:
    vision = {"timm_model_name": name, "timm_model_pretrained": False, "image_size": 64, **tower}
    return CLIP(embed_dim=16, vision_cfg=vision, text_cfg=TEXT)


def learn(model: nn.Module, learns: Callable, size: tuple[int, int] = (64, 64)) -> None:
    images, texts = torch.rand(2, 3, *size), torch.randint(1, 50, (2, 8))
    learns(model.visual.trunk, ClipLoss()(*model.train()(images, texts)))


@pytest.mark.parametrize("tower", [{"timm_proj": "linear"}, {"timm_proj": "mlp"}, {"timm_proj": None}])
def test_clip_trains_with_each_projection(name: str, tower: dict, learns: Callable) -> None:
    """`CLIP` with `timm_model_name`, `timm_proj` linear, mlp and none"""
    learn(clip(name, **tower), learns)


@pytest.mark.parametrize("pool", ["abs_attn", "rot_attn"])
def test_clip_trains_with_attention_pooling(name: str, pool: str, learns: Callable) -> None:
    """`CLIP` with `timm_pool` abs_attn and rot_attn"""
    model = clip(name, timm_pool=pool, timm_proj=None)
    _, *size = model.visual.trunk.default_cfg["input_size"]  # absolute positions fit one size only
    learn(model, learns, tuple(size))


def test_a_locked_tower_keeps_its_weights(name: str) -> None:
    """`lock_image_tower()` and gradient checkpointing"""
    model = clip(name)
    model.set_grad_checkpointing()
    model.lock_image_tower(freeze_bn_stats=True)
    images, texts = torch.rand(2, 3, 64, 64), torch.randint(1, 50, (2, 8))
    ClipLoss()(*model.train()(images, texts)).backward()
    assert all(parameter.grad is None for parameter in model.visual.trunk.parameters())
    assert model.visual.head.proj.weight.grad.any()
