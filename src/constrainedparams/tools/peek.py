"""y as the next read would give it, without a trace of having looked."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..attach.classes import slots_of
from ..core.function import call, isolated, own_tensors, state_of
from ..core.slot import Slot
from ..core.tensors import raw_name
from ..sets.contract import Constraint


def constrained(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Slot]]:
    """(qualified name, module, name, slot) of every constrained parameter in the tree."""
    for prefix, module in model.named_modules():
        for name, slot in slots_of(module).items():
            yield (f"{prefix}.{name}" if prefix else name), module, name, slot


def peek(module: nn.Module, name: str) -> Tensor:
    """The value of y, without grad: no count, cache, buffer of f or random state changes.

    A value written into y in place is given as it stands: the next read carries it to x or refuses
    it. What is cached is not computed again.
    """
    slot = slots_of(module)[name]
    if slot.override:
        return slot.override[-1].detach()
    x = getattr(module, raw_name(name))
    record = slot.record
    with torch.no_grad():
        if record is not None and (record.written() or not slot.changed(module, x, record)):
            return record.y_alias
    function = slot.function_of(module)
    parameters, buffers, _ = own_tensors(function)
    own = {**parameters, **{key: buffer.clone() for key, buffer in buffers.items()}}
    generators = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(generators), isolated(x.device), torch.no_grad():
        return call(function, x, state_of(module, name, slot.state_names), own)


def distance(module: nn.Module, name: str) -> float | None:
    """The largest residual of y; None for a function without a set, and without values."""
    function = slots_of(module)[name].function
    if not isinstance(function, Constraint):
        return None
    y = peek(module, name)
    if y.is_meta:
        return None
    return float(function.residual(y).max()) if y.numel() else 0.0
