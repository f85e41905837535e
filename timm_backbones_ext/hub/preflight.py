"""What has to hold before a saved backbone leaves this machine."""

import copy
from pathlib import Path
from typing import Any

import torch

from .._types import Model
from ..errors import HubError, WeightsError
from ..fingerprints import compare, fingerprint
from ..layers import thawed
from ..saving.folder import load, saved_fingerprint
from ..saving.manifest import check_files
from ..weights.config import read_config
from ..weights.files import CONFIG, FINGERPRINT, WEIGHTS

__all__ = ["preflight"]

REFUSED = "nothing was sent"


def preflight(folder: Path, model: Model | None = None) -> Model:
    """Check that the files of a folder make one model, strictly, and that it is the model that was saved.

    Args:
        folder: The files to send.
        model: The full model that they were saved from; the model made from them has to give the same bits.

    Returns:
        The model made from the files.

    Raises:
        HubError: The files do not make the model, were changed since they were saved, or weights are not finite.
    """
    missing = [name for name in (WEIGHTS, CONFIG, FINGERPRINT) if not (folder / name).is_file()]
    if missing:
        raise HubError(f"{REFUSED}: {folder} has no {', '.join(missing)}; tbx.save writes what is needed")
    read_config(folder / CONFIG, REFUSED)
    if changed := check_files(folder).changed:
        raise HubError(f"{REFUSED}: {'; '.join(changed)}. Save the model again")
    rebuilt = _loaded(folder)
    if broken := [key for key, value in rebuilt.state_dict().items() if not value.isfinite().all()]:
        raise HubError(f"{REFUSED}: {len(broken)} tensors have NaN or Inf, such as {broken[0]}")
    report = compare(saved_fingerprint(folder), fingerprint(rebuilt))
    if not report.same:
        raise HubError(f"{REFUSED}: the saved files do not make the same model: {report}")
    if model is not None and not _bit_equal(model, rebuilt):
        raise HubError(f"{REFUSED}: the model made from the saved files does not give bit-equal outputs")
    return rebuilt


def _loaded(folder: Path) -> Model:
    """The model in a folder; any error that timm raises while building is one of the files."""
    try:
        return load(folder)
    except (HubError, WeightsError) as error:
        raise HubError(f"{REFUSED}: {error}") from error
    except Exception as error:
        raise HubError(f"{REFUSED}: the files do not make a model ({type(error).__name__}: {error})") from error


def _bit_equal(model: Model, rebuilt: Model) -> bool:
    """Whether two models give the same bits for the same image, in float32 on the CPU.

    A frozen batch norm, which `freeze_at` and `freeze_base` put in place of a plain one, rounds otherwise.
    """
    plain: dict[str, Any] = {"dtype": torch.float32, "device": "cpu", "memory_format": torch.contiguous_format}
    twins = [thawed(copy.deepcopy(item)).to(**plain).eval() for item in (model, rebuilt)]
    x = torch.rand(1, model.in_chans, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        outputs = [twin(x) for twin in twins]
    return torch.equal(*outputs)
