"""Training in less memory: the backward pass computes outputs of norms, activations and widening 1x1 convs again.

Autograd keeps the input of a norm, the input of the activation after it and the input of the conv after that. The first
of these three tensors is enough to compute the others. The gradients equal those of the plain model to the bit, because
the same operators run on the same values. In-place activated batch norm (https://arxiv.org/abs/1712.02616, section 3)
computes the input of a norm from its output instead, which is not exact.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from timm.layers import GELU
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["kept_bytes", "save_memory"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)
Compute = Callable[[Tensor], Tensor]
Key = tuple[int, int]
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU)
WIDENING = 4
"""Ratio of output to input channels of the 1x1 convs that are computed again, such as the last of a bottleneck.

The first conv of an MBConv widens by 6. It is not computed again, since an MBConv needs little memory anyway.
"""


def save_memory(model: AnyModule) -> AnyModule:
    """Make a model keep fewer tensors between forward and backward pass; its gradients stay the same to the bit.

    Tensors and keys stay the same. It works with `features_only`, detectors, DDP and FSDP2. In a compiled model it does
    nothing, since the compiler decides what to compute again. Gradient checkpointing saves more memory, but computes
    everything twice.

    Args:
        model: A timm model of any family of this package, with or without edits; changed in place.

    Returns:
        The same model.
    """
    tape = Tape()
    for module in model.modules():
        if hasattr(module, "inplace") and not isinstance(module, nn.ReLU):
            vars(module)["inplace"] = False  # torch would keep a copy of the input
        if _again(module):
            module.register_forward_pre_hook(tape.before)
            module.register_forward_hook(tape.after)
    for child in model.children():
        child.register_forward_pre_hook(tape.enter, prepend=True)
        child.register_forward_hook(tape.leave, always_call=True)
    return model


def _again(module: nn.Module) -> Compute | None:
    """A function that computes the output of a module again; None if the output is kept."""
    if isinstance(module, nn.BatchNorm2d):
        return lambda x: _batch_norm(module, x)
    if isinstance(module, nn.ReLU):
        return F.relu
    if isinstance(module, (nn.LayerNorm, *ACTIVATIONS)):
        return module.forward
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and type(module) is nn.Conv2d:
        return module.forward if module.out_channels == WIDENING * module.in_channels else None
    return None


def _batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Apply a batch norm without updating its running statistics."""
    if norm.training or norm.running_mean is None:
        return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


class Value:
    """A tensor of a forward pass: kept, or computed again from another one."""

    def __init__(
        self, tensor: Tensor | None = None, compute: Compute | None = None, source: Value | None = None
    ) -> None:
        self.tensor, self.compute, self.source = tensor, compute, source
        self.version = None if tensor is None else tensor._version
        self.alive: Callable[[], Tensor | None] = lambda: None  # a weak reference to the output

    def get(self) -> Tensor:
        """The tensor, computed at most once: autograd drops this object after its last use."""
        if self.compute is None or self.source is None or self.tensor is not None:
            return self._unchanged()
        if torch.is_grad_enabled():
            raise RuntimeError("save_memory does not support gradients of gradients; create the model without it")
        self.tensor = self.compute(self.source.get())
        self.version = self.tensor._version
        return self.tensor

    def is_changed(self) -> bool:
        """Whether an in-place operation changed the tensor after it was saved."""
        return self.tensor is not None and self.tensor._version != self.version

    def _unchanged(self) -> Tensor:
        if self.tensor is None or self.is_changed():
            raise RuntimeError("a tensor that the backward pass needs was changed in place after it was saved")
        return self.tensor


class Packed:
    """Autograd's replacement for a saved tensor: the value, and the tensor's view (shape, strides) of that value."""

    def __init__(self, tensor: Tensor, value: Value) -> None:
        self.value = value
        self.layout = tensor.size(), tensor.stride(), tensor.storage_offset()

    def get(self) -> Tensor:
        """The tensor that was packed."""
        tensor = self.value.get()
        return tensor if self.value.compute is None else tensor.as_strided(*self.layout)


class Tape:
    """The values of the forward passes of one model."""

    def __init__(self) -> None:
        self.values: weakref.WeakValueDictionary[Key, Value] = weakref.WeakValueDictionary()
        self.inside: list[tuple[Key, Packed]] = []  # packed by the module that runs
        self.source = Value()
        self.hooks: list[saved_tensors_hooks] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Tape:
        return memo.setdefault(id(self), Tape())

    def __reduce__(self) -> tuple[type[Tape], tuple[()]]:
        return Tape, ()

    def enter(self, module: nn.Module, args: Any) -> None:
        """Forward pre-hook of a child: autograd saves what `pack` returns from here on."""
        if not torch.compiler.is_compiling():
            self.hooks.append(saved_tensors_hooks(self.pack, Packed.get))
            self.hooks[-1].__enter__()

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook of a child; it also runs if the child raised an error."""
        if self.hooks and not torch.compiler.is_compiling():
            self.hooks.pop().__exit__()

    def before(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Forward pre-hook of a module whose output is computed again: record its input, which it may overwrite."""
        if self._on():
            self.source, self.inside = self.value_of(args[0]) or Value(args[0].detach()), []

    def after(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Forward hook of the same module: its output need not be kept, even if the module saved it itself."""
        if not self._on() or self.source.is_changed():  # by the module, in place
            return
        value = Value(compute=_again(module), source=self.source)
        value.alive = weakref.ref(output)
        vars(output)["computed_again"] = value  # lives as long as the output or a packed tensor of it
        self.values[_key(output)] = value
        for key, packed in self.inside:
            if key == _key(output):
                packed.value = value
        self.source, self.inside = Value(), []

    def pack(self, tensor: Tensor) -> Packed:
        """Autograd's hook for a tensor that it saves."""
        packed = Packed(tensor, self.value_of(tensor) or Value(tensor))
        self.inside.append((_key(tensor), packed))
        return packed

    def value_of(self, tensor: Tensor) -> Value | None:
        """The recorded value of a tensor; None if the tensor cannot be computed again."""
        value = self.values.get(_key(tensor))
        return value if value is not None and value.alive() is not None else None

    def _on(self) -> bool:
        return bool(self.hooks) and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _key(tensor: Tensor) -> Key:
    """Identify the memory of a tensor at one version; views share the key of their base."""
    return tensor.untyped_storage().data_ptr(), tensor._version


def kept_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass allocates and that stay allocated for the backward pass.

    Args:
        model: A model in the mode to measure; in train mode its running statistics are updated.
        x: Input, (N, C, H, W).
    """
    with _Held() as held:
        output = model(x)
        kept = sum(held.sizes.values())
    del output
    return kept


class _Held(TorchDispatchMode):
    """The sizes of all memory that operators allocated and that is still referenced."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves(args) if isinstance(tensor, Tensor)}
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in given:
                self.sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, storage._cdata, None)
        return made
