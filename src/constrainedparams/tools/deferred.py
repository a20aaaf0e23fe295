"""Gradient accumulation with one derivative of f per optimiser step."""

import weakref
from types import TracebackType
from typing import Any

from torch import nn

from ..attach.classes import slots_of
from ..attach.guesses import refuse_no_module
from ..errors import PendingGradients


class deferred_pullback:  # noqa: N801  (a context manager, named as a function)
    """Inside, a backward adds up dL/dy at y; the first backward outside carries the sum to x.

    All micro-batches but the last run inside. Then f is differentiated once per optimiser step. One
    object may be entered for each micro-batch, as DDP's ``no_sync()`` is: its sums go on. A step
    that is skipped needs ``discard()``: ``zero_grad`` knows nothing of the sums.
    ``torch.autograd.grad(loss, x)`` and ``create_graph=True`` do not work inside. Nested blocks
    count as one.

    Raises:
        PendingGradients: the outermost block is entered while sums of another one are pending.

    Example:
        >>> import torch
        >>> from constrainedparams import Parametrized, deferred_pullback
        >>> w = Parametrized(torch.zeros(2), torch.exp)
        >>> with deferred_pullback(w):
        ...     w.y.sum().backward()
        >>> w.x.grad is None
        True
        >>> w.y.sum().backward()
        >>> w.x.grad.tolist()
        [2.0, 2.0]
    """

    def __init__(self, model: nn.Module):
        refuse_no_module(model, "deferred_pullback")
        self.model = model
        self._entered: list[list[Any]] = []
        self._kept: weakref.WeakSet[Any] = weakref.WeakSet()  # records with sums of this object

    def _slots(self) -> list[Any]:
        return [slot for module in self.model.modules() for slot in slots_of(module).values()]

    def __enter__(self) -> "deferred_pullback":
        slots = self._slots()
        for slot in slots:
            if not slot.deferring and slot.pending() and slot.record not in self._kept:
                raise PendingGradients(
                    f"`{slot.name}` still has gradients of an earlier deferred_pullback block "
                    "pending: their last backward outside the block is missing. Run it, or call "
                    "`discard()` to skip that step. To enter a block for each micro-batch, enter "
                    "one object: `accumulate = deferred_pullback(model)`, `with accumulate:`."
                )
        for slot in slots:
            slot.deferring += 1
        self._entered.append(slots)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        slots = self._entered.pop()
        for slot in slots:
            slot.deferring = max(0, slot.deferring - 1)
        self._kept.update(slot.record for slot in slots if slot.pending())
        if kind is not None:
            self.discard()

    def discard(self) -> None:
        """Drop the sums: the step they belong to is skipped."""
        for slot in self._slots():
            if slot.pending():
                del slot.record.graph.pending[slot.record.place]
