"""The key of a cached value: what must be unchanged for y to be still f(x)."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..functions.call import Place
from ..functions.parts import Parts
from . import private
from .tensors import function_name, state_name


class Watch(NamedTuple):
    """One tensor: the object, its version, its memory and whether it trains.

    A subclass is asked for its version through a plain alias that shares the counter, in a third of
    the time. The object is held strongly: ids and addresses are reused.
    ``swap_tensors`` changes the memory under the same object, hence the pointer. It stands with the
    dict it was found in: a replaced tensor is another object there, and asking costs no walk.
    """

    holder: dict[str, Any]
    key: str
    tensor: Tensor
    alias: Tensor
    version: int
    pointer: int
    requires_grad: bool


def watch(holder: Any, key: str, tensor: Tensor) -> Watch:
    alias = tensor if type(tensor) is Tensor else private.detach(tensor)
    version = alias._version if versioned(tensor) else -1
    return Watch(holder, key, tensor, alias, version, alias.data_ptr(), tensor.requires_grad)


class Companions:
    """What else f depends on: map state, and all that an nn.Module f is made of."""

    __slots__ = ("function", "ids", "parameters", "parts", "places", "sound", "steady", "watches")

    def __init__(self, module: nn.Module, name: str, state: Iterable[str], function: Any):
        self.function = function
        buffers, keys = vars(module)["_buffers"], [state_name(name, key) for key in state]
        watches = [watch(buffers, key, buffers[key]) for key in keys]
        self.parts: Parts | None = None
        self.places: list[Place] = []
        self.parameters: tuple[nn.Parameter, ...] = ()
        if isinstance(function, nn.Module):
            self.parts = parts = Parts(module._modules, function_name(name), function)
            self.places, self.parameters = parts.places, parts.parameters
            watches += [watch(*found) for found in parts.tensors]
        self.watches = tuple(watches)
        self.sound = False  # whether a base point was seen to be on the set
        self.steady = all(versioned(watch.tensor) for watch in self.watches)
        self.ids = tuple([id(watch.tensor) for watch in self.watches])

    def same(self, versions: bool = True) -> bool:
        """Whether all are the same objects, with ``versions`` also that nobody wrote to them."""
        for holder, key, tensor, alias, version, pointer, requires_grad in self.watches:
            now = holder.get(key)
            if now is not tensor or (versions and alias._version != version):
                return False
            if now.data_ptr() != pointer or now.requires_grad is not requires_grad:
                return False
        return self.parts is None or self.parts.same()

    def moved(self) -> bool:
        """Whether one was written to."""
        return any(watch.alias._version != watch.version for watch in self.watches)

    def renewed(self) -> "Companions | None":
        """The same objects at their present versions; None where one is another object."""
        if not self.same(False):
            return None
        again = object.__new__(Companions)
        again.function, again.parameters, again.places = self.function, self.parameters, self.places
        again.watches = tuple([w._replace(version=w.alias._version) for w in self.watches])
        again.parts, again.ids, again.sound, again.steady = self.parts, self.ids, False, True
        return again


def versioned(tensor: Any) -> bool:
    """Tensors made under inference mode have no version counter: f runs at each read."""
    return not tensor.is_inference()
