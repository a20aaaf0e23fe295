"""The graph of many slots at once: f was evaluated on all their x in one tensor."""

from typing import Any

import torch
from torch import Tensor

from ..core import private
from ..core.pullback import Gradients, Graph, Tensors
from ..errors import PendingGradients
from ..numerics.precision import full_precision


class Stacked:
    """What a ``Graph`` is for one slot, for many: output i depends on x i alone.

    Y = f(X), X and Y the stacks of all x and of all y. f saw a copy of every x, so that autograd
    cannot compare their versions: this does, unless they are None.
    """

    __slots__ = ("__weakref__", "edge", "pending", "shape", "stack", "versions", "watchers", "xs")

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        xs: Tensors,
        versions: list[int] | None,
        watchers: tuple[Any, ...],
    ):
        self.stack = x
        self.edge = private.edge(y)
        self.shape = y.shape[1:]
        self.xs, self.versions = xs, versions
        self.watchers = watchers
        self.pending: dict[int, Tensor] = {}

    def pulled(self, grads: Gradients, node: Any) -> Gradients:
        """As of a Graph; a sum waits until a gradient of its own y comes in."""
        slots = [watcher() for watcher in self.watchers]
        for i in self.pending:
            slot = slots[i]
            folds = slot is not None and not slot.deferring and grads[i] is not None
            if folds and not _reaches(node.next_functions[i][0]):
                raise PendingGradients(
                    f"the gradients of `{slot.name}` collected by deferred_pullback would be lost: "
                    "this backward passes by its x. Run `loss.backward()`, without `inputs=`, in "
                    "place of it, or call `discard()`."
                )
        found = list(grads)
        for i, (slot, g) in enumerate(zip(slots, grads, strict=True)):
            if g is None or slot is None:
                continue
            if self.pending or slot.deferring or g.is_sparse:
                found[i] = slot.pull(self, i, g)
            else:
                slot.counts.pullbacks += 1
        return tuple(found)

    def vjp(self, grads: Gradients, create_graph: bool = False) -> Gradients:
        """As of a Graph: one derivative for all; what nobody used stays without a gradient."""
        given = [g for g in grads if g is not None]
        if not given:
            return (None,) * len(grads)
        self._refuse_changed(grads)
        if len(given) < len(grads):
            zero = given[0].new_zeros(self.shape)
            given = [zero if g is None else g for g in grads]
        stack = torch.stack(given)
        with full_precision(stack.device):
            (whole,) = private.gradients((self.edge,), (self.stack,), (stack,), create_graph)
        parts = (None,) * len(grads) if whole is None else whole.unbind()
        return tuple([None if g is None else v for g, v in zip(grads, parts, strict=True)])

    def derivative(self, result: Gradients, grads: Gradients, own: list[Tensor]) -> "Parts":
        """As of a Graph, the parts still apart."""
        given = [i for i, g in enumerate(grads) if g is not None]
        return Parts(result, list(range(len(result))), (self.stack, *own), given)

    def _refuse_changed(self, grads: Gradients) -> None:
        if self.versions is None:
            return
        with private.plain_getters():
            now = [x._version for x in self.xs]
        if now == self.versions:
            return
        for version, before, grad in zip(now, self.versions, grads, strict=True):
            if version != before and grad is not None:
                raise RuntimeError(
                    "an unconstrained parameter has been modified by an inplace operation since "
                    "the forward pass that this backward belongs to: its constrained value was "
                    f"computed at version {before}, it is at version {version} now. Run the "
                    "backward before the optimiser steps."
                )


class Parts:
    """A derivative of a stack, its parts as functions of X, a part for each, and of other leaves.

    ``of_outputs`` and ``of_leaves`` number them by slot.
    """

    __slots__ = ("graph", "of_leaves", "of_outputs")

    def __init__(self, result: Gradients, of_leaves: list[int], leaves: Tensors, own: list[int]):
        pairs = zip(of_leaves, result, strict=True)
        self.of_outputs = [part for part, v in pairs if v is not None]
        self.of_leaves = [*of_leaves, *own]
        self.graph = Graph(tuple([v for v in result if v is not None]), leaves)

    def pulled(self, grads: Gradients, _: Any) -> Gradients:
        """As of a Graph: no slot waits for a derivative."""
        return grads

    def vjp(self, grads: Gradients, create_graph: bool = False) -> Gradients:
        """As of a Graph, without the zeros of slots that nobody asked for."""
        pairs = zip(self.of_outputs, grads, strict=True)
        live = {part for part, g in pairs if g is not None}
        whole, *others = self.graph.vjp(grads, create_graph)
        count = len(self.of_leaves) - len(others)
        parts = (None,) * count if whole is None else whole.unbind()
        found = zip((*parts, *others), self.of_leaves, strict=True)
        return tuple([v if part in live else None for v, part in found])

    def derivative(self, result: Gradients, grads: Gradients, own: list[Tensor]) -> "Parts":
        """As of a Graph."""
        given = [p for p, g in zip(self.of_outputs, grads, strict=True) if g is not None]
        return Parts(result, self.of_leaves, (*self.graph.leaves, *own), given)


def _reaches(accumulator: Any) -> bool:
    """Whether the backward that runs now fills the ``.grad`` behind it."""
    try:
        return bool(private.goes_on_to(accumulator))
    except RuntimeError:  # within torch.autograd.grad
        return False


def copies(stack: Tensor) -> Tensors:
    """The parts of ``stack`` in memory of their own, each with its own version counter.

    One memory for all: to make one for each takes three times as long.
    """
    if stack.ndim < 2 or not stack.shape[1]:
        return tuple([part.clone() for part in stack.unbind()])
    whole = stack.clone(memory_format=torch.contiguous_format).flatten(0, 1)
    return tuple(torch.unsafe_split(whole, stack.shape[1]))
