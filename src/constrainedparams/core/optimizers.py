"""Freshness layer: what optimisers do. Fused steps move no version; memory ends with the step."""

import weakref
from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer

from ..errors import PendingGradients, StaleOptimizer
from . import private
from .key import versioned
from .tensors import Retired, Unconstrained

_live: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # slots with a value
_before: weakref.WeakKeyDictionary[Any, tuple[list[Any], list[int]]] = weakref.WeakKeyDictionary()
_installed = False


def install() -> None:
    """Hook every ``torch.optim.Optimizer``, once, when the first parameter is registered."""
    global _installed
    if not _installed:
        torch_optimizer.register_optimizer_step_pre_hook(_pre_step)
        torch_optimizer.register_optimizer_step_post_hook(_post_step)
        _installed = True


def follow(slot: Any) -> None:
    """``slot`` holds a value now."""
    if not slot.followed:
        _live[id(slot)], slot.followed = slot, True


def _values(held: dict[int, Any]) -> list[tuple[Any, Any]]:
    """Slots with a value that depends on a tensor in ``held``, and the records of it."""
    slots = [slot for ref in _live.valuerefs() if (slot := ref()) is not None]
    records = [(slot, record) for slot in slots if (record := slot.record) is not None]
    return [pair for pair in records if id(pair[1].tensor) in held or pair[1].depends_on(held)]


def _held(optimizer: Any) -> dict[int, Any]:
    return {id(p): p for group in optimizer.param_groups for p in group["params"]}


def _pre_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    """Writes to y reach x before the step; sums that would be lost refuse it."""
    if torch.compiler.is_compiling() or private.tracing_state() is not None:
        return
    held = _held(optimizer)
    for p in held.values():
        if type(p) is Retired:
            raise StaleOptimizer(
                f"{type(optimizer).__name__} still holds the former parameter of {p._replaced}, "
                "which was replaced by one of another shape. Make the optimiser anew."
            )
    for slot, record in _values(held):
        if record.graph is not None and record.graph.pending and slot.pending():
            raise PendingGradients(
                f"{type(optimizer).__name__}.step() while gradients of `{slot.name}` collected by "
                "deferred_pullback are pending. Run the last backward of the step outside the "
                "block (`with deferred_pullback(model):` around all but the last), or call "
                "`discard()`."
            )
        if (slot.former or record.written()) and (module := record.home()) is not None:
            slot.settle(module)
    closure = len(args) > 1 or kwargs.get("closure") is not None  # args[0] is the optimiser
    with private.plain_getters():
        stepped = [
            p
            for p in held.values()
            if type(p) is Unconstrained and (closure or p.grad is not None) and versioned(p)
        ]
        _before[optimizer] = stepped, [p._version for p in stepped]


def _post_step(optimizer: Any, _args: Any, _kwargs: Any) -> None:
    """A step that moved no version moved the value all the same: say so, and empty the slots."""
    if torch.compiler.is_compiling() or private.tracing_state() is not None:
        return
    with private.plain_getters():
        stepped, versions = _before.pop(optimizer, ((), ()))
        still = [p for p, before in zip(stepped, versions, strict=True) if p._version == before]
        torch.autograd.graph.increment_version(still)
        done = [
            (slot, module)
            for slot, record in _values(_held(optimizer))
            if record.moved() and slot.mode != "manual" and (module := record.home()) is not None
        ]
        for slot, module in done:  # when nothing here holds a record, and y with it
            slot.expire(module, "optimiser step")
