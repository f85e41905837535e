"""A Hugging Face Hub on this machine: for tests, and for teams without a network.

Nothing here imports torch, and only `mirror` imports the rest of the package, so that a server starts at once.
"""

from .access import User
from .local import LocalHub, serve

__all__ = ["LocalHub", "User", "serve"]
