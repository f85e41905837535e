"""`fuse`: a copy of a model that computes the same in less time, in plain eager PyTorch."""

from .fusing import Fused, folded, fuse

__all__ = ["Fused", "folded", "fuse"]
