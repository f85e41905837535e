"""What has to hold before a saved backbone leaves this machine."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .._types import Model
from ..errors import HubError
from ..fingerprints import compare, fingerprint, unwrap
from ..registry import VARIANTS
from ..saving.checks import check_config, check_weights
from ..saving.folder import load, saved_fingerprint
from ..weights.files import CONFIG, FINGERPRINT, HINT, WEIGHTS

__all__ = ["base_of", "preflight"]


def preflight(folder: Path, model: Model | None = None) -> None:
    """See that the files of a folder make one model, strictly, and that it is the model that was saved.

    Raises:
        HubError: They do not, or weights are not finite; nothing was sent.
    """
    missing = [name for name in (WEIGHTS, CONFIG, FINGERPRINT) if not (folder / name).is_file()]
    if missing:
        raise HubError(f"nothing was sent: {folder} has no {', '.join(missing)}; tbx.save writes what is needed")
    check_config(folder / CONFIG, "nothing was sent")
    check_weights(folder, "nothing was sent")
    if broken := [key for key, value in load_file(folder / WEIGHTS).items() if not value.isfinite().all()]:
        raise HubError(f"nothing was sent: {len(broken)} tensors have NaN or Inf, such as {broken[0]}")
    rebuilt = load(folder)
    report = compare(saved_fingerprint(folder), fingerprint(rebuilt))
    if not report.same:
        raise HubError(f"nothing was sent: the saved files do not make the same model: {report}")
    if model is not None and not _bit_equal(unwrap(model), rebuilt):
        raise HubError("nothing was sent: the model made from the saved files does not give bit-equal outputs")


def _bit_equal(model: Model, rebuilt: Model) -> bool:
    """Whether two models give the same bits for the same image, in float32 on the CPU."""
    plain: dict[str, Any] = {"dtype": torch.float32, "device": "cpu", "memory_format": torch.contiguous_format}
    twins = [copy.deepcopy(item).to(**plain).eval() for item in (model, rebuilt)]
    x = torch.rand(1, model.in_chans, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        outputs = [twin(x) for twin in twins]
    return torch.equal(*outputs)


def base_of(config: Path) -> str:
    """The timm architecture that a config's model starts from."""
    name = str(json.loads(config.read_text(encoding="utf-8")).get("architecture")).removesuffix(f".{HINT}")
    return VARIANTS[name].base if name in VARIANTS else name
