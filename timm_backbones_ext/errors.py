"""The errors and the warning of this package. Each message says what was expected, what came and what to do."""

__all__ = ["BackboneError", "HubError", "LicenseWarning", "WeightsError"]


class BackboneError(RuntimeError):
    """Base class of this package's errors; wrong arguments raise `ValueError` and the file system raises `OSError`."""


class HubError(BackboneError):
    """A repo cannot be read or written, or its content is wrong; nothing was loaded or changed."""


class WeightsError(BackboneError):
    """Weights do not belong to the model; nothing was loaded."""


class LicenseWarning(UserWarning):
    """The licence of the loaded weights forbids commercial use."""
