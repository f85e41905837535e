"""Files from the Hub: one revision, whole, and with the content that the Hub recorded, or an error says why not."""

from ..errors import HubError
from .errors import TransportError, explained
from .repo import CLIENT, Repo
from .retry import PATIENCE, Patience, persist

__all__ = ["CLIENT", "PATIENCE", "HubError", "Patience", "Repo", "TransportError", "explained", "persist"]
