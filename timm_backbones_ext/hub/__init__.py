"""Backbones as folders, and folders on the Hugging Face Hub: weights, config, fingerprint and card; never a pickle."""

from .download import HubError, pull, verify
from .folder import save
from .upload import push_to_hub

__all__ = ["HubError", "pull", "push_to_hub", "save", "verify"]
