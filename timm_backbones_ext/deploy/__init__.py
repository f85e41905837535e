"""The same function in less time: what is done to a model before it serves, and `load` for the machine that serves.

Importing this package imports neither torch nor timm: `load` reads a deployed folder without them.
"""

from .loading import Deployed, load

__all__ = ["Deployed", "load"]
