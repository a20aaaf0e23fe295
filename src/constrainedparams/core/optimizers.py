"""Freshness layer: what optimisers do. Fused steps move no version; memory ends with the step."""

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer

from ..errors import PendingGradients, StaleOptimizer
from . import private
from .key import versioned
from .tensors import Retired, Unconstrained

_live: dict[int, weakref.ref[Any]] = {}  # slots that hold a value; list() of it is atomic
_before: weakref.WeakKeyDictionary[Any, list[tuple[Any, int]]] = weakref.WeakKeyDictionary()
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
    key = id(slot)
    if key not in _live:
        _live[key] = weakref.ref(slot, lambda _: _live.pop(key, None))


def _slots_of(held: dict[int, Any]) -> Iterator[tuple[Any, Any]]:
    """Slots with a value that depends on a tensor in ``held``, and where it was read."""
    for ref in list(_live.values()):
        slot = ref()
        if slot is not None and slot.record is not None and slot.record.depends_on(held):
            yield slot, slot.record.home()


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
    for slot, module in _slots_of(held):
        if slot.pending():
            raise PendingGradients(
                f"{type(optimizer).__name__}.step() while gradients of `{slot.name}` collected by "
                "deferred_pullback are pending. Run the last backward of the step outside the "
                "block (`with deferred_pullback(model):` around all but the last), or call "
                "`discard()`."
            )
        if module is not None:
            slot.settle(module)
    closure = len(args) > 1 or kwargs.get("closure") is not None  # args[0] is the optimiser
    _before[optimizer] = [
        (p, p._version)
        for p in held.values()
        if type(p) is Unconstrained and versioned(p) and (closure or p.grad is not None)
    ]


def _post_step(optimizer: Any, _args: Any, _kwargs: Any) -> None:
    """A step that moved no version moved the value all the same: say so, and empty the slots."""
    if torch.compiler.is_compiling() or private.tracing_state() is not None:
        return
    for p, version in _before.pop(optimizer, ()):
        if p._version == version:
            torch.autograd.graph.increment_version(p)
    for slot, module in _slots_of(_held(optimizer)):
        if slot.mode != "manual" and module is not None and slot.record.moved():
            slot.drop("optimiser step")
