"""One f and one derivative in each compiled graph, however often y is read there.

Dynamo records each read as a call of ``evaluate`` and does not look inside. When that graph is
traced operation by operation, the calls with one and the same x get one and the same result, so
autograd adds up what comes back and differentiates f once. Compiled graphs know f by a number that
is equal for equal functions, and by train/eval and other plain attributes of an nn.Module: equal
blocks share a graph, and another mode makes another one.
"""

from typing import Any

from torch import Tensor, nn

from ..core.slot import Slot
from ..core.tensors import SLOTS, raw_name
from . import opaque


def number(module: nn.Module) -> None:
    """Give the slots of ``module`` the numbers of their functions."""
    for slot in module.__dict__.get(SLOTS, {}).values():
        slot.number = opaque.number_of(slot.function)


def read(slot: Slot, module: nn.Module) -> Tensor:
    """y for a compiler: traced by Dynamo, so it decides on nothing but Python values."""
    function = slot.function_of(module)
    own: list[nn.Parameter] = []
    settings: tuple[tuple[str, Any], ...] = ()
    if isinstance(function, nn.Module):
        if function is not slot.function or any(True for _ in function.buffers()):
            return slot.inline(module)  # its buffers may change in there, which must be recorded
        own = list(function.parameters())
        settings = opaque.settings_of(function)
    if slot.number < 0:
        return slot.inline(module)
    x = getattr(module, raw_name(slot.name_in(module)))
    state = list(slot.state_in(module).values())
    y: Tensor = opaque.evaluate(slot.number, settings, slot.state_names, x, *state, *own)
    return y
