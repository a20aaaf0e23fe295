"""The key of a cached value: what must be unchanged for y to be still f(x)."""

from typing import Any

from torch import Tensor

from . import private


class Watch:
    """One tensor: the object, its version, its memory and whether it trains.

    The version is read through a plain alias that shares the counter: on an exact Tensor it costs a
    third of what it costs on a subclass. The object is held strongly: ids and addresses are reused.
    ``swap_tensors`` changes the memory under the same object, hence the pointer.
    """

    __slots__ = ("alias", "pointer", "requires_grad", "tensor", "version")

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self.alias = private.detach(tensor)
        self.version = self.alias._version
        self.pointer = tensor.data_ptr()
        self.requires_grad = tensor.requires_grad

    def same(self, tensor: Tensor | None) -> bool:
        return (
            tensor is self.tensor
            and self.alias._version == self.version
            and tensor.data_ptr() == self.pointer
            and tensor.requires_grad is self.requires_grad
        )


class Companions:
    """What else f depends on: map state, parameters, buffers and train/eval of an nn.Module f."""

    __slots__ = ("modes", "watches")

    def __init__(self, tensors: list[Tensor], modes: tuple[bool, ...]):
        self.watches = [Watch(t) for t in tensors]
        self.modes = modes

    def same(self, tensors: list[Tensor], modes: tuple[bool, ...]) -> bool:
        return (
            modes == self.modes
            and len(tensors) == len(self.watches)
            and all(w.same(t) for w, t in zip(self.watches, tensors, strict=True))
        )


def versioned(tensor: Any) -> bool:
    """Tensors made under inference mode have no version counter: f runs at each read."""
    return not tensor.is_inference()
