"""Small models to push, and what a repo holds afterwards."""

from huggingface_hub import HfApi
from torch import nn

from timm_backbones_ext import testing

__all__ = ["head", "make"]


def make(name: str = "ext_test_convnext", **kwargs: object) -> nn.Module:
    """A calibrated model with three classes."""
    import timm

    return testing.calibrate(timm.create_model(name, **{"num_classes": 3, **kwargs})).eval()


def head(repo: str) -> str:
    """The newest commit of a repo."""
    return str(HfApi().repo_info(repo).sha)
