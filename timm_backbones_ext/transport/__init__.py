"""Files from the Hub: one revision, whole, with the content that the Hub recorded; else an error says why not."""

from ..errors import HubError
from .errors import TransportError, explained
from .repo import CLIENT, Repo, listing
from .retry import PATIENCE, Patience, persist

__all__ = ["CLIENT", "PATIENCE", "HubError", "Patience", "Repo", "TransportError", "explained", "listing", "persist"]
