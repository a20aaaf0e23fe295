"""y as the next read would give it, without a trace of having looked."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..attach.checkpoints import mend
from ..attach.classes import slots_of
from ..attach.guesses import refuse_no_module
from ..core.slot import Slot
from ..core.tensors import raw_name
from ..sets.contract import Constraint


def constrained(model: nn.Module, caller: str) -> Iterator[tuple[str, nn.Module, str, Slot]]:
    """(qualified name, module, name, slot) of every constrained parameter in the tree."""
    refuse_no_module(model, caller)
    for prefix, module in model.named_modules():
        for name, slot in slots_of(module).items():
            yield (f"{prefix}.{name}" if prefix else name), module, name, slot


def peek(module: nn.Module, name: str) -> Tensor:
    """The value of y for a set, without grad: nothing is counted, cached or noticed.

    A value that somebody wrote into y is given as it stands: the next read carries it to x or
    refuses it. A function that is no set may be random or change buffers of its own: read y.
    """
    slot = slots_of(module)[name]
    if slot.override:
        return slot.override[-1].detach()
    record = slot.record
    with torch.no_grad():
        mend(module, slot)
        if record is not None and not slot.changed(module, _x(module, name), record):
            y = record.y()
            return slot.again(module, record).detach() if y is None else y.detach()
        return slot.inline(module)


def distance(module: nn.Module, name: str) -> float | None:
    """The largest residual of y; None for a function without a set, and without values."""
    function = slots_of(module)[name].function
    if not isinstance(function, Constraint):
        return None
    if _x(module, name).is_meta:
        return None
    y = peek(module, name)
    return float(function.residual(y).max()) if y.numel() else 0.0


def _x(module: nn.Module, name: str) -> Tensor:
    x: Tensor = getattr(module, raw_name(name))
    return x
