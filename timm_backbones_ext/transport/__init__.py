"""Files from the Hub: all from one commit, complete, and with the hash that the Hub recorded; otherwise an error."""

from ..errors import HubError
from .errors import TransportError, explained
from .repo import CLIENT, Repo, listing
from .retry import PATIENCE, Patience, persist

__all__ = ["CLIENT", "PATIENCE", "HubError", "Patience", "Repo", "TransportError", "explained", "listing", "persist"]
