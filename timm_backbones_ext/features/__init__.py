"""Feature wrappers: timm's five ways to return multi-scale maps, with what detectors need of them.

Each class is timm's own with these differences, all measured against timm 1.0.31. `out_indices` may be in any order and
repeat, and `feature_info` agrees with the maps. No parameter is left without a gradient. Layer-wise learning-rate decay
finds the model's own groups. Checkpoints of the full model load, and those of its base. `set_grad_checkpointing` works
on all. `full_model()` returns the model without its classifier, to save, initialise or fingerprint it. `return_layers`
may be replaced, as transformers does for hidden states, by modules' names in the wrapper or the model.
"""

from .classes import FeatureDict, FeatureGetter, FeatureGraph, FeatureHook, FeatureList
from .making import feature_model, sharing, wrap
from .wrapper import FeatureWrapper

__all__ = [
    "FeatureDict",
    "FeatureGetter",
    "FeatureGraph",
    "FeatureHook",
    "FeatureList",
    "FeatureWrapper",
    "feature_model",
    "sharing",
    "wrap",
]
