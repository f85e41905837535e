"""Feature wrappers: timm's five classes that return multi-scale maps, with additions for detectors.

Each class extends timm's. These are the differences to timm 1.0.31:

- `out_indices` may be in any order and repeat; `feature_info` agrees with the maps.
- Every parameter gets a gradient.
- Layer-wise learning-rate decay uses the parameter groups of the full model.
- Checkpoints of the full model and of its base load.
- `set_grad_checkpointing` works in all classes.
- `full_model()` returns the model without its classifier, to save, initialise or fingerprint it.
- `return_layers` may be replaced by names of modules in the wrapper or in the model, as transformers does for hidden
  states.
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
