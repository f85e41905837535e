"""The errors and the warning of this package; each message says what was expected, what came and what to do."""

__all__ = ["BackboneError", "HubError", "LicenseWarning", "WeightsError"]


class BackboneError(RuntimeError):
    """Base class of the errors that are neither wrong arguments (`ValueError`) nor the system's (`OSError`)."""


class HubError(BackboneError):
    """A repo that cannot be read or written, or that does not hold what it should; nothing was loaded or changed."""


class WeightsError(BackboneError):
    """Weights that do not belong to the model; nothing was loaded."""


class LicenseWarning(UserWarning):
    """Weights that were loaded are not for commercial use."""
