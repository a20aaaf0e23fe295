"""The graph of many slots at once: f was evaluated on all their x in one tensor."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from ..core import private
from ..core.pullback import Gradients, Graph
from ..errors import PendingGradients
from ..numerics.precision import full_precision


class Stacked:
    """What a ``Graph`` is for one slot, for many: output i depends on leaf i alone.

    Y = f(X), X and Y the stacks of all x and of all y. f saw a copy of the leaves, so that autograd
    cannot compare their versions: this does.
    """

    __slots__ = ("__weakref__", "edge", "leaves", "pending", "shape", "versions", "watchers", "x")

    def __init__(self, x: Tensor, y: Tensor, leaves: tuple[Tensor, ...], watchers: tuple[Any, ...]):
        self.x = x
        self.edge = get_gradient_edge(y)
        self.shape = y.shape[1:]
        self.leaves = leaves
        self.versions = [leaf._version for leaf in leaves]
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
        return tuple(
            [
                g if g is None or slot is None else slot.pull(self, i, g)
                for i, (slot, g) in enumerate(zip(slots, grads, strict=True))
            ]
        )

    def vjp(self, grads: Gradients, create_graph: bool = False) -> Gradients:
        """As of a Graph: one derivative for all; what nobody used stays without a gradient."""
        given = next((g for g in grads if g is not None), None)
        if given is None:
            return (None,) * len(grads)
        _refuse_changed(self.leaves, self.versions, grads)
        zero = given.new_zeros(self.shape)
        stack = (torch.stack([zero if g is None else g for g in grads]),)
        with full_precision(given.device):
            if create_graph:
                found = private.gradients((self.edge,), self.leaves, stack, True)
            else:
                (whole,) = private.gradients((self.edge,), (self.x,), stack, False)
                found = (None,) * len(grads) if whole is None else whole.unbind()
        return tuple([None if g is None else v for g, v in zip(grads, found, strict=True)])

    def derivative(self, result: Gradients, grads: Gradients, own: list[Tensor]) -> "Parts":
        """As of a Graph, the parts still apart."""
        of = [i for i, v in enumerate(result) if v is not None]
        given = [i for i, g in enumerate(grads) if g is not None]
        outputs = tuple(v for v in result if v is not None)
        return Parts(outputs, (*self.leaves, *own), of, [*range(len(self.leaves)), *given])


class Parts:
    """A derivative of a stack. ``of_outputs`` and ``of_leaves`` number them by slot."""

    __slots__ = ("graph", "leaves", "of_leaves", "of_outputs")

    def __init__(
        self,
        outputs: tuple[Tensor, ...],
        leaves: tuple[Tensor, ...],
        of_outputs: Sequence[int],
        of_leaves: Sequence[int],
    ):
        self.graph = Graph(outputs, leaves)
        self.leaves = leaves
        self.of_outputs, self.of_leaves = of_outputs, of_leaves

    def pulled(self, grads: Gradients, _: Any) -> Gradients:
        """As of a Graph: no slot waits for a derivative."""
        return grads

    def vjp(self, grads: Gradients, create_graph: bool = False) -> Gradients:
        """As of a Graph, without the zeros of slots that nobody asked for."""
        pairs = zip(self.of_outputs, grads, strict=True)
        live = {part for part, g in pairs if g is not None}
        result = self.graph.vjp(grads, create_graph)
        return tuple(
            v if part in live else None for v, part in zip(result, self.of_leaves, strict=True)
        )

    def derivative(self, result: Gradients, grads: Gradients, own: list[Tensor]) -> "Parts":
        given = [p for p, g in zip(self.of_outputs, grads, strict=True) if g is not None]
        of = [p for p, v in zip(self.of_leaves, result, strict=True) if v is not None]
        outputs = tuple(v for v in result if v is not None)
        return Parts(outputs, (*self.leaves, *own), of, [*self.of_leaves, *given])


def _reaches(accumulator: Any) -> bool:
    """Whether the backward that runs now fills the ``.grad`` behind it."""
    try:
        return bool(private.goes_on_to(accumulator))
    except RuntimeError:  # within torch.autograd.grad
        return False


def _refuse_changed(leaves: Sequence[Tensor], versions: Sequence[int], grads: Gradients) -> None:
    for leaf, version, grad in zip(leaves, versions, grads, strict=True):
        if leaf._version != version and grad is not None:
            raise RuntimeError(
                "an unconstrained parameter has been modified by an inplace operation since the "
                "forward pass that this backward belongs to: its constrained value was computed "
                f"at version {version}, it is at version {leaf._version} now. Run the backward "
                "before the optimiser steps."
            )
