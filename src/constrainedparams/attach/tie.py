"""Keeps x and map state one tensor each in all modules that share a slot."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..core.slot import Slot
from ..core.tensors import SLOTS, raw_name, state_name


class Tie:
    """What became of the shared tensors when they were last moved, cast or assigned.

    torch visits module by module and makes a new tensor for each. The first module that replaces a
    shared tensor is remembered; the others had the same one before and get the same one after.
    """

    def __init__(self) -> None:
        self.moved: dict[str, tuple[weakref.ref[Tensor], Tensor]] = {}
        self.holders: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # and some that were

    def __getstate__(self) -> dict[str, Any]:
        return {"moved": {}}

    def __setstate__(self, _: Any) -> None:
        self.__init__()  # type: ignore[misc]  # copies of the modules come by themselves

    def after(self, key: str, old: Tensor, new: Tensor) -> Tensor:
        """What to hold in place of ``old`` in a module for which torch made ``new``."""
        if key in self.moved:
            former, found = self.moved[key]
            if former() is old:
                fits = (found.shape, found.dtype, found.device)
                return found if fits == (new.shape, new.dtype, new.device) else new
        self.moved[key] = weakref.ref(old), new
        return new


def held(module: nn.Module, slot: Slot) -> dict[str, tuple[dict[str, Any], str]]:
    """Where ``module`` keeps x and map state of ``slot``: a dict and a name in it for each."""
    name = slot.name_in(module)
    buffers = {key: (module._buffers, state_name(name, key)) for key in slot.state_names}
    return {"x": (module._parameters, raw_name(name)), **buffers}


def shared(slot: Slot) -> bool:
    """Whether more than one name in a module is ``slot`` now."""
    if slot.tie is None:
        return False
    places = [s for m in slot.tie.holders for s in m.__dict__.get(SLOTS, {}).values() if s is slot]
    return len(places) > 1


@contextmanager
def together(module: nn.Module) -> Iterator[None]:
    """Around what replaces the tensors of ``module``."""
    slots: dict[str, Slot] = module.__dict__[SLOTS]
    before = {
        name: {key: place[at] for key, (place, at) in held(module, slot).items()}
        for name, slot in slots.items()
        if slot.tie is not None
    }
    yield
    for name, tensors in before.items():
        for key, (place, at) in held(module, slots[name]).items():
            if place[at] is not tensors[key]:
                place[at] = slots[name].tie.after(key, tensors[key], place[at])
