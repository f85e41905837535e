"""Commercial use of weights, decided by the name of their licence."""

import warnings

from .errors import LicenseWarning

__all__ = ["COMMERCIAL", "allows_commercial_use", "forbids_commercial_use", "warn_once"]

COMMERCIAL = ("apache-2.0", "bsd-3-clause", "dinov3-license", "mit")
"""Licences in timm's registry that allow commercial use; the DINOv3 License sets conditions."""
FORBIDDING = ("-nc", "noncommercial", "non-commercial")
"""Parts of the names of licences that forbid commercial use."""
_warned: set[str] = set()


def allows_commercial_use(licence: str) -> bool:
    """Whether a licence is known to allow commercial use; false for an empty or unknown licence."""
    return licence.lower() in COMMERCIAL


def forbids_commercial_use(licence: str) -> bool:
    """Whether the name of a licence says that it forbids commercial use."""
    return any(part in licence.lower() for part in FORBIDDING)


def warn_once(origin: str, licence: str | None) -> None:
    """Warn, once per process and origin, if a licence forbids commercial use.

    Args:
        origin: Where the weights come from: the id of a repo, or the name of a model.
        licence: As timm's registry or the repo's config states it.
    """
    if licence and forbids_commercial_use(licence) and origin not in _warned:
        _warned.add(origin)
        warnings.warn(
            f"the weights of {origin} are under {licence}, which forbids commercial use. "
            "`timm-ext list --license commercial` lists models with other weights",
            LicenseWarning,
            stacklevel=2,
        )
