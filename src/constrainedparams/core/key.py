"""The key of a cached value: what must be unchanged for y to be still f(x)."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from . import private
from .tensors import function_name, state_name


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
        self.pointer = self.alias.data_ptr()
        self.requires_grad = tensor.requires_grad

    def moved(self) -> bool:
        """Whether the tensor was written to; less than ``same``, and in a third of the time."""
        return self.alias._version != self.version

    def same(self, tensor: Tensor | None) -> bool:
        return (
            tensor is self.tensor
            and self.alias._version == self.version
            and tensor.data_ptr() == self.pointer
            and tensor.requires_grad is self.requires_grad
        )


class Companions:
    """What else f depends on: map state, parameters, buffers and train/eval of an nn.Module f.

    Each is kept with the dict that it was found in: a replaced tensor or submodule is another
    object in the same dict, and asking costs no walk through f.
    """

    __slots__ = ("ids", "parts", "sound", "watches")

    def __init__(self, module: nn.Module, name: str, state: Iterable[str], function: Any):
        buffers: Any = module._buffers
        keys = [state_name(name, key) for key in state]
        self.watches = [(buffers, key, Watch(buffers[key])) for key in keys]
        self.parts: list[tuple[dict[str, Any], str, nn.Module, bool, int]] = []
        if isinstance(function, nn.Module):
            self._descend(module._modules, function_name(name), function)
        self.sound = False  # whether a base point was seen to be on the set
        self.ids = frozenset(id(watch.tensor) for _, _, watch in self.watches)

    def _descend(self, holder: dict[str, Any], key: str, part: nn.Module) -> None:
        self.parts.append((holder, key, part, part.training, _size(part)))
        for tensors in (part._parameters, part._buffers):
            self.watches += [(tensors, k, Watch(t)) for k, t in tensors.items() if t is not None]
        for name, child in part._modules.items():
            if child is not None:
                self._descend(part._modules, name, child)

    def same(self) -> bool:
        for holder, key, watch in self.watches:
            if not watch.same(holder.get(key)):
                return False
        for holder, key, part, training, size in self.parts:
            if holder.get(key) is not part or part.training is not training or _size(part) != size:
                return False
        return True


def _size(part: nn.Module) -> int:
    return len(part._parameters) + len(part._buffers) + len(part._modules)


def versioned(tensor: Any) -> bool:
    """Tensors made under inference mode have no version counter: f runs at each read."""
    return not tensor.is_inference()
