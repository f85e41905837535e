"""Backbones as folders, and folders on the Hugging Face Hub: weights, config, fingerprint and card; never a pickle."""

from ..transfer import HubError
from .download import pull, verify
from .folder import save
from .upload import plan_push, push_to_hub

__all__ = ["HubError", "plan_push", "pull", "push_to_hub", "save", "verify"]
