"""The names of timm's tensors in other projects: one table for both directions.

A pair has the name of a tensor or module in timm and its name in the other project. `{s}` and `{b}` are the numbers of
stage and block; on the right `{next}`, `{even}` and `{odd}` are s + 1, 2s and 2s + 1, `{flat}` counts blocks through
all stages, and `{last}` is the number of stages plus one. The rest of a key, after the left side, stays the same. A
name without a pair is the same in both. A third entry has two functions for tensors whose values change.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

__all__ = ["FORMATS", "Format", "Name", "Pair", "Rules"]


class Change(NamedTuple):
    """Two functions on values: from timm's form to the other; and back, with timm's tensor as the second argument."""

    out: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]


def _as_timm(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(like.shape) if value.numel() == like.numel() else value


def _kernel(weight: Tensor) -> Tensor:
    """(C_out, C_in, k, k) -> (k * k, C_in, C_out), or (k * k, C) if depthwise; MinkowskiEngine counts columns first."""
    moved = weight.transpose(2, 3).flatten(2).permute(2, 1, 0)
    return moved[:, 0] if weight.shape[1] == 1 else moved


def _conv(kernel: Tensor, like: Tensor) -> Tensor:
    if kernel.numel() != like.numel() or kernel.ndim not in (2, 3):
        return kernel
    whole = kernel[:, None] if kernel.ndim == 2 else kernel
    return whole.permute(2, 1, 0).reshape(like.shape).transpose(2, 3)


MATRIX = Change(lambda value: value.flatten(1), _as_timm)  # a conv over the whole map, stored as a linear layer
COLUMN = Change(lambda value: value[:, None, None], _as_timm)
ROW = Change(lambda value: value[None], _as_timm)
PIXEL = Change(lambda value: value[None, None, None], _as_timm)
KERNEL = Change(_kernel, _conv)
HALVED = Change(lambda value: value * 2, lambda value, _: value / 2)
"""mmcv's masks start at sigmoid(0) = 0.5 and ours at 2 * sigmoid(0) = 1, so our weights are half of mmcv's."""

Pair: TypeAlias = tuple[str, str] | tuple[str, str, Change]


class Name(NamedTuple):
    """The name of a tensor in another project; empty if the project lacks the tensor."""

    text: str
    change: Change | None


@dataclass(frozen=True)
class Rules:
    """The pairs for one family."""

    pairs: tuple[Pair, ...] = ()
    kinds: dict[str, str] = field(default_factory=dict)
    """Names of children that tell kinds of modules apart; the first that exists counts. A pair may name `conv2:dcn`."""

    def names(self, keys: Collection[str]) -> dict[str, Name]:
        """timm's key -> its name in the project."""
        kinds, depths = self._kinds(keys), _depths(keys)
        compiled = [(_pattern(pair[0]), pair[1], pair[2] if len(pair) > 2 else None) for pair in self.pairs]
        return {key: _name(_with_kinds(key, kinds), compiled, depths, key) for key in keys}

    def _kinds(self, keys: Collection[str]) -> dict[str, str]:
        """Module -> kind, for modules that have one."""
        found: dict[str, str] = {}
        for child, kind in self.kinds.items():
            for key in keys:
                owner, dot, _ = key.partition(f".{child}.")
                if dot:
                    found.setdefault(owner, kind)
        return found


def _with_kinds(key: str, kinds: dict[str, str]) -> str:
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if kind := kinds.get(".".join(parts[:end])):
            return ".".join([*parts[: end - 1], f"{parts[end - 1]}:{kind}", *parts[end:]])
    return key


def _depths(keys: Collection[str]) -> list[int]:
    """Blocks of each stage of a model whose blocks are in `blocks.0.0` and so on."""
    found = {tuple(map(int, match.groups())) for key in keys if (match := re.match(r"blocks\.(\d+)\.(\d+)\.", key))}
    stages = [stage for stage, _ in found]
    return [stages.count(stage) for stage in sorted(set(stages))]


def _pattern(left: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(left)) + r"(?P<rest>\..+)?")


def _name(described: str, compiled: list[Any], depths: list[int], key: str) -> Name:
    for pattern, right, change in compiled:
        if match := pattern.fullmatch(described):
            numbers = {name: int(value) for name, value in match.groupdict().items() if name != "rest" and value}
            stage, rest = numbers.get("s", 0), match["rest"] or ""
            numbers |= {"next": stage + 1, "even": 2 * stage, "odd": 2 * stage + 1, "last": len(depths) + 1}
            numbers["flat"] = sum(depths[:stage]) + numbers.get("b", 0)
            return Name(right.format(**numbers) + rest if right else "", change)
    return Name(key, None)


@dataclass(frozen=True)
class Format:
    """A project's names for the tensors of models that timm has too, and other differences of its models."""

    name: str
    project: str
    rules: dict[str, Rules]
    """By family."""
    edits: tuple[str, ...] = ()
    """Edits of this package whose tensors the project has too."""
    same_padding: bool | None = None
    """Whether its EfficientNets pad as TensorFlow does."""
    eps: tuple[tuple[str, float], ...] = ()
    """Pattern of an architecture's name -> epsilon of its batch norms, if it may differ from timm's."""

    def eps_of(self, architecture: str) -> float | None:
        """Epsilon of the batch norms of an architecture; None if the table has none, so that timm's stays."""
        return next((eps for pattern, eps in self.eps if re.search(pattern, architecture)), None)


def _with_parts(block: str, kind: str, parts: str) -> Iterator[Pair]:
    """The pairs of an EfficientNet's block: `parts` lists timm's names and the other ones."""
    for part in parts.split():
        ours, theirs = part.split("=")
        yield f"blocks.{{s}}.{{b}}:{kind}.{ours}", f"{block}.{theirs}"


MBCONV_KINDS = {"conv_exp": "fused", "conv_pwl": "mb", "conv_pw": "ds", "conv": "plain"}
_TV_BLOCK = "features.{next}.{b}.block"
_LM_BLOCK = "_blocks.{flat}"
_SE = "se.conv_reduce={0}.fc1 se.conv_expand={0}.fc2"
_META_BLOCK: tuple[Pair, ...] = (
    ("stem", "downsample_layers.0"),
    ("stages.{s}.downsample", "downsample_layers.{s}"),
    ("stages.{s}.blocks.{b}.conv_dw", "stages.{s}.{b}.dwconv"),
    ("stages.{s}.blocks.{b}.mlp.fc1.weight", "stages.{s}.{b}.pwconv1.weight", MATRIX),
    ("stages.{s}.blocks.{b}.mlp.fc2.weight", "stages.{s}.{b}.pwconv2.weight", MATRIX),
    ("stages.{s}.blocks.{b}.mlp.fc1", "stages.{s}.{b}.pwconv1"),
    ("stages.{s}.blocks.{b}.mlp.fc2", "stages.{s}.{b}.pwconv2"),
    ("stages.{s}.blocks.{b}.mlp.grn.weight", "stages.{s}.{b}.grn.gamma", PIXEL),
    ("stages.{s}.blocks.{b}.mlp.grn.bias", "stages.{s}.{b}.grn.beta", PIXEL),
    ("stages.{s}.blocks.{b}", "stages.{s}.{b}"),
)

TIMM = Format("timm", "timm", {family: Rules() for family in ("resnet", "convnext", "efficientnet", "vgg", "cifar")})

TORCHVISION = Format(
    "torchvision",
    "torchvision",
    {
        "resnet": Rules(),
        "convnext": Rules(
            (
                ("stem", "features.0"),
                ("stages.{s}.downsample", "features.{even}"),
                ("stages.{s}.blocks.{b}.gamma", "features.{odd}.{b}.layer_scale", COLUMN),
                ("stages.{s}.blocks.{b}.conv_dw", "features.{odd}.{b}.block.0"),
                ("stages.{s}.blocks.{b}.norm", "features.{odd}.{b}.block.2"),
                ("stages.{s}.blocks.{b}.mlp.fc1.weight", "features.{odd}.{b}.block.3.weight", MATRIX),
                ("stages.{s}.blocks.{b}.mlp.fc2.weight", "features.{odd}.{b}.block.5.weight", MATRIX),
                ("stages.{s}.blocks.{b}.mlp.fc1", "features.{odd}.{b}.block.3"),
                ("stages.{s}.blocks.{b}.mlp.fc2", "features.{odd}.{b}.block.5"),
                ("head.norm", "classifier.0"),
                ("head.fc", "classifier.2"),
            )
        ),
        "efficientnet": Rules(
            (
                ("conv_stem", "features.0.0"),
                ("bn1", "features.0.1"),
                *_with_parts(_TV_BLOCK, "plain", "conv=0.0 bn1=0.1"),
                *_with_parts(_TV_BLOCK, "fused", "conv_exp=0.0 bn1=0.1 conv_pwl=1.0 bn2=1.1"),
                *_with_parts(_TV_BLOCK, "ds", f"conv_dw=0.0 bn1=0.1 {_SE.format(1)} conv_pw=2.0 bn2=2.1"),
                *_with_parts(_TV_BLOCK, "mb", "conv_pw=0.0 bn1=0.1 conv_dw=1.0 bn2=1.1"),
                *_with_parts(_TV_BLOCK, "mb", f"{_SE.format(2)} conv_pwl=3.0 bn3=3.1"),
                ("conv_head", "features.{last}.0"),
                ("bn2", "features.{last}.1"),
                ("classifier", "classifier.1"),
            ),
            MBCONV_KINDS,
        ),
        "vgg": Rules(
            (
                ("pre_logits.fc1.weight", "classifier.0.weight", MATRIX),
                ("pre_logits.fc2.weight", "classifier.3.weight", MATRIX),
                ("pre_logits.fc1", "classifier.0"),
                ("pre_logits.fc2", "classifier.3"),
                ("head.fc", "classifier.6"),
            )
        ),
    },
    same_padding=False,
    eps=((r"efficientnet_b[567]|efficientnetv2", 1e-3), (r"efficientnet_b[0-4]", 1e-5)),
)

META = Format(
    "meta",
    "Meta's ConvNeXt and ConvNeXt V2",
    {"convnext": Rules((*_META_BLOCK, ("head.norm", "norm"), ("head.fc", "head")))},
)

META_DETECTION = Format(
    "meta-detection",
    "Meta's ConvNeXt backbone of detectors",
    {
        "convnext": Rules(
            (
                *_META_BLOCK,
                ("out_norms.{s}.weight", "norm{s}.weight"),
                ("out_norms.{s}.bias", "norm{s}.bias"),
                ("head", ""),
            )
        )
    },
    edits=("out_norm",),
)

META_FCMAE = Format(
    "meta-fcmae",
    "the sparse form in which Meta's ConvNeXt V2 is pretrained",
    {
        "convnext": Rules(
            (
                ("stages.{s}.downsample.0", "downsample_layers.{s}.0.ln"),
                ("stages.{s}.downsample.1.weight", "downsample_layers.{s}.1.kernel", KERNEL),
                ("stages.{s}.downsample.1.bias", "downsample_layers.{s}.1.bias", ROW),
                ("stages.{s}.blocks.{b}.conv_dw.weight", "stages.{s}.{b}.dwconv.kernel", KERNEL),
                ("stages.{s}.blocks.{b}.conv_dw.bias", "stages.{s}.{b}.dwconv.bias", ROW),
                ("stages.{s}.blocks.{b}.norm", "stages.{s}.{b}.norm.ln"),
                ("stages.{s}.blocks.{b}.mlp.fc1.weight", "stages.{s}.{b}.pwconv1.linear.weight", MATRIX),
                ("stages.{s}.blocks.{b}.mlp.fc2.weight", "stages.{s}.{b}.pwconv2.linear.weight", MATRIX),
                ("stages.{s}.blocks.{b}.mlp.fc1", "stages.{s}.{b}.pwconv1.linear"),
                ("stages.{s}.blocks.{b}.mlp.fc2", "stages.{s}.{b}.pwconv2.linear"),
                ("stages.{s}.blocks.{b}.mlp.grn.weight", "stages.{s}.{b}.grn.gamma", ROW),
                ("stages.{s}.blocks.{b}.mlp.grn.bias", "stages.{s}.{b}.grn.beta", ROW),
                ("head", ""),
                *_META_BLOCK[:1],
            )
        )
    },
)

LUKEMELAS = Format(
    "lukemelas",
    "lukemelas' EfficientNet-PyTorch and its Lite form",
    {
        "efficientnet": Rules(
            (
                ("conv_stem", "_conv_stem"),
                ("bn1", "_bn0"),
                *_with_parts(_LM_BLOCK, "ds", "conv_dw=_depthwise_conv bn1=_bn1 conv_pw=_project_conv bn2=_bn2"),
                *_with_parts(_LM_BLOCK, "mb", "conv_pw=_expand_conv bn1=_bn0 conv_dw=_depthwise_conv bn2=_bn1"),
                *_with_parts(_LM_BLOCK, "mb", "conv_pwl=_project_conv bn3=_bn2"),
                *(pair for kind in ("ds", "mb") for pair in _with_parts(_LM_BLOCK, kind, "se.conv_reduce=_se_reduce")),
                *(pair for kind in ("ds", "mb") for pair in _with_parts(_LM_BLOCK, kind, "se.conv_expand=_se_expand")),
                ("conv_head", "_conv_head"),
                ("bn2", "_bn1"),
                ("classifier", "_fc"),
            ),
            MBCONV_KINDS,
        )
    },
    same_padding=True,
    eps=(("efficientnet", 1e-3),),
)

MMCV = Format(
    "mmcv",
    "mmcv's ResNets with deformable convs",
    {
        "resnet": Rules(
            (("layer{s}.{b}.conv2:dcn.weight", "layer{s}.{b}.conv2.weight", HALVED), ("fc", "")),
            {"conv_offset": "dcn"},
        )
    },
    edits=("dcn",),
)

FORMATS = {item.name: item for item in (TIMM, TORCHVISION, META, META_DETECTION, META_FCMAE, LUKEMELAS, MMCV)}
"""The known formats, by name; if a state dict fits several, the first one counts."""
