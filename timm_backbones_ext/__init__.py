"""Custom timm backbones that start as the pretrained models they extend. Importing this registers them."""

from . import models, testing
from ._version import __version__
from .describe import describe
from .detection import Level, Pyramid, freeze_at, group_norm, pad_to, pyramid, sync_bn
from .edits import EDITS, Edit, edit, edit_class, list_edits, merge, parse
from .fingerprint import Fingerprint, Report, compare, fingerprint
from .hub import HubError, plan_push, pull, push_to_hub, save, verify
from .optim import param_groups
from .registry import VARIANTS, Variant, register_variant
from .weights import WeightsError

__all__ = [
    "EDITS",
    "VARIANTS",
    "Edit",
    "Fingerprint",
    "HubError",
    "Level",
    "Pyramid",
    "Report",
    "Variant",
    "WeightsError",
    "__version__",
    "compare",
    "describe",
    "edit",
    "edit_class",
    "fingerprint",
    "freeze_at",
    "group_norm",
    "list_edits",
    "merge",
    "models",
    "pad_to",
    "param_groups",
    "parse",
    "plan_push",
    "pull",
    "push_to_hub",
    "pyramid",
    "register_variant",
    "save",
    "sync_bn",
    "testing",
    "verify",
]
