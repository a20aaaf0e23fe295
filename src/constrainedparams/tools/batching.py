"""Layers of equal set and shape evaluated as one."""

import logging
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..attach.batch import Batch, over_stack
from ..attach.guesses import refuse_no_bool
from ..core.isolated import isolated
from ..core.slot import Slot
from ..core.tensors import raw_name
from ..functions.describe import describe
from ..sets.contract import Constraint
from .peek import constrained

logger = logging.getLogger("constrainedparams")
Module = TypeVar("Module", bound=nn.Module)
Place = tuple[str, nn.Module, str, Slot]


def batch(model: Module, on: bool = True) -> Module:
    """Evaluate constrained parameters of equal set, shape, dtype and device as one batch.

    For many small matrices, where calling f costs more than f. The first read after a step runs f
    once for all parameters of a batch that changed, and a backward pass runs one derivative for
    all. What changed alone is evaluated alone. Values, gradients and counts are those of single
    evaluation, to rounding.

    What it costs: a read of one layer evaluates all stale ones, also those that nobody reads this
    time; gradients of x arrive together, when the last gradient of any y has come in; y's are held
    until x changes, in one piece of memory; one layer's gradient in a backward of its own costs
    the derivative of all.

    Only sets are batched. A callable or an ``nn.Module`` need not take a batch, may be random or
    have state: it is left out, and so is what has no partner; both are logged at INFO. Parameters
    that are registered later join with another call, which changes nothing else.

    Args:
        model: any module; the tree below it is searched.
        on: False undoes it: each is evaluated alone at its next change.

    Returns:
        ``model``. ``summary`` shows in the column ``batch`` how many are evaluated together.

    Raises:
        RegistrationError: ``model`` is no module.

    Example:
        >>> from torch import nn
        >>> from constrainedparams import Orthogonal, batch, summary
        >>> from constrainedparams import register_constrained_parameters
        >>> model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(16)])
        >>> _ = register_constrained_parameters(model, {"*.weight": Orthogonal()})
        >>> summary(batch(model))["0.weight"].batch
        16
    """
    refuse_no_bool("on", on)
    groups: dict[Any, dict[Slot, Place]] = {}
    for place in constrained(model, "batch"):
        qualified, module, name, slot = place
        if not on:
            slot.batch = None
        elif isinstance(slot.function, Constraint):
            x = getattr(module, raw_name(name))
            key = slot.function, slot.mode, slot.shape, x.dtype, x.device
            groups.setdefault(key, {}).setdefault(slot, place)
        else:
            _leave_out(qualified, f"{describe(slot.function)} is no set; it may not take a batch")
    for members in groups.values():
        _join(list(members.values()))
    return model


def _join(places: list[Place]) -> None:
    """Make a batch of ``places``, or add them to the one that some of them are in."""
    qualified, module, name, slot = places[0]
    if len(places) == 1 and slot.batch is None:
        _leave_out(qualified, "nothing else has this set, shape, dtype and device")
        return
    function = over_stack(slot.function, getattr(module, raw_name(name)).ndim)
    if len(places) > 1 and not _takes_a_batch(function, places[:2]):
        for one, *_ in places:
            _leave_out(one, f"{slot.function!r} of a batch is not that of its elements")
        return
    known = [place[3].batch for place in places if place[3].batch is not None]
    joined = known[0] if known else Batch(function)
    for _, module, _, slot in places:
        joined.join(slot, module)
    logger.info("%d parameters of %r, %s, are one batch", len(joined), slot.function, slot.shape)


def _leave_out(qualified: str, reason: str) -> None:
    logger.info("`%s` is evaluated alone: %s", qualified, reason)


def _takes_a_batch(function: Constraint, places: list[Place]) -> bool:
    """Whether f of a stack is the stack of f, which a set of one's own might not have kept."""
    xs = [getattr(module, raw_name(name)).detach() for _, module, name, _ in places]
    states = [slot.state_in(module) for _, module, _, slot in places]
    slots = [slot for *_, slot in places]
    with isolated(xs[0].device, False):
        alone = [
            slot.function(x, **state) for slot, x, state in zip(slots, xs, states, strict=True)
        ]
        state = {key: torch.stack([held[key] for held in states]) for key in states[0]}
        try:
            together = function(torch.stack(xs), **state)
        except Exception:
            return False
        return together.shape[1:] == alone[0].shape and all(_close(together, alone))


def _close(together: Tensor, alone: list[Tensor]) -> Iterator[bool]:
    for one, other in zip(together, alone, strict=True):
        if not other.is_meta and other.numel():
            bound = 8 * torch.finfo(other.dtype).eps ** 0.75 * (1 + float(other.abs().max()))
            yield float((one - other).abs().max()) <= bound
