"""The pullback node: hands y out and runs the derivative of f on a private, retained graph."""

from typing import Any

import torch
from torch import Tensor

from ..numerics.precision import full_precision
from . import private

Tensors = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]


class Graph:
    """Outputs as a function of leaves that belong to nobody else.

    The leaves are detached aliases of the parameters: hooks on the parameters, reducers and
    clipping see one total after the node, not the parts inside. No backward frees it. Of the
    outputs it keeps where they stand in the graph, not their values. Of many slots: attach/stacked.
    """

    __slots__ = ("__weakref__", "edges", "leaves", "pending", "wanted", "watchers")

    def __init__(self, outputs: Tensors, leaves: Tensors, watchers: tuple[Any, ...] = ()):
        self.edges = [private.edge(o) if o.requires_grad else None for o in outputs]
        self.leaves = leaves
        self.wanted = tuple([leaf for leaf in leaves if leaf.requires_grad])
        self.watchers = watchers  # for each output a weak reference to its slot; derivatives: none
        self.pending: dict[int, Tensor] = {}  # dL/dy held back by deferred_pullback, by output

    def pulled(self, grads: Gradients, _: Any) -> Gradients:
        """``grads``, of which the slot may hold something back, or add what it held."""
        slot = self.watchers[0]() if self.watchers else None
        return grads if slot is None else (slot.pull(self, 0, grads[0]),)

    def vjp(self, grads: Gradients, create_graph: bool = False) -> Gradients:
        """Vector-Jacobian product with respect to every leaf; None where nothing flows."""
        both = zip(self.edges, grads, strict=True)
        pairs = [(e, g) for e, g in both if e is not None and g is not None]
        if not pairs or not self.wanted:
            return (None,) * len(self.leaves)
        edges, cotangents = zip(*pairs, strict=True)
        with full_precision(cotangents[0].device):
            pulled = private.gradients(edges, self.wanted, cotangents, create_graph)
        found = [g if g is None else g.resolve_conj() for g in pulled]  # as optimisers ask
        if len(found) == len(self.leaves):
            return tuple(found)
        rest = iter(found)
        return tuple([next(rest) if leaf.requires_grad else None for leaf in self.leaves])

    def derivative(self, result: Gradients, _: Gradients, own: list[Tensor]) -> "Graph":
        """``result`` of ``vjp`` as a function of the leaves and of ``own``, the gradients given."""
        return Graph(tuple(v for v in result if v is not None), (*self.leaves, *own))


class Pullback(torch.autograd.Function):
    """One node over a private graph. Any number of backwards; each order of derivative adds one."""

    @staticmethod
    def forward(ctx: Any, graph: Any, copies: Tensors, *inputs: Tensor) -> Any:
        ctx.graph = graph
        ctx.inputs = inputs
        ctx.set_materialize_grads(False)
        # Copies of f's values: a write to what the user holds must not reach the graph.
        return copies if len(copies) > 1 else copies[0]

    @classmethod
    def over(cls, graph: Any, copies: Tensors, inputs: Tensors) -> Any:
        """``copies`` as outputs of a node over ``graph``; ``apply`` where no transform looks on."""
        return super(torch.autograd.Function, cls).apply(graph, copies, *inputs)  # type: ignore[misc]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        graph = ctx.graph
        grads = graph.pulled(grads, ctx)
        if not torch.is_grad_enabled():
            return (None, None, *graph.vjp(grads))
        return (None, None, *_differentiable(graph, ctx.inputs, grads))


def _differentiable(graph: Any, inputs: Tensors, grads: Gradients) -> Gradients:
    """The derivative itself as a node over a retained graph, for create_graph=True."""
    given = [g for g in grads if g is not None]
    own = [g.detach().requires_grad_() for g in given]
    cotangents = iter(own)
    result = graph.vjp(
        tuple(None if g is None else next(cotangents) for g in grads), create_graph=True
    )
    present = tuple(v for v in result if v is not None)
    if not present:
        return result
    copies = tuple(v.detach().clone() for v in present)
    handed = Pullback.apply(graph.derivative(result, grads, own), copies, *inputs, *given)
    values = iter(handed if isinstance(handed, tuple) else (handed,))
    return tuple(None if v is None else next(values) for v in result)
