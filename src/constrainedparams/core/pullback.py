"""The pullback node: hands y out and runs the derivative of f on a private, retained graph."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from ..sets.contract import without_autocast
from . import private

Gradients = tuple[Tensor | None, ...]


class Graph:
    """Outputs as a function of leaves that belong to nobody else.

    The leaves are detached aliases of the parameters: hooks on the parameters, reducers and
    clipping see one total after the node, not the parts inside. No backward frees it. Of the
    outputs it keeps where they stand in the graph, not their values.
    """

    __slots__ = ("__weakref__", "edges", "leaves", "pending", "watcher")

    def __init__(
        self, outputs: tuple[Tensor, ...], leaves: tuple[Tensor, ...], watcher: Any = None
    ):
        self.edges = [get_gradient_edge(o) if o.requires_grad else None for o in outputs]
        self.leaves = leaves
        self.watcher = watcher  # weak reference to the slot, or None for derivatives
        self.pending: Tensor | None = None  # dL/dy held back by deferred_pullback

    def vjp(self, grads: Gradients, create_graph: bool = False) -> Gradients:
        """Vector-Jacobian product with respect to every leaf; None where nothing flows."""
        wanted = [leaf for leaf in self.leaves if leaf.requires_grad]
        both = zip(self.edges, grads, strict=True)
        pairs = [(e, g) for e, g in both if e is not None and g is not None]
        if not pairs or not wanted:
            return (None,) * len(self.leaves)
        edges, cotangents = zip(*pairs, strict=True)
        with without_autocast(cotangents[0].device):
            found = iter(private.gradients(edges, tuple(wanted), cotangents, create_graph))
        return tuple(next(found) if leaf.requires_grad else None for leaf in self.leaves)


class Pullback(torch.autograd.Function):
    """One node over a private graph. Any number of backwards; each order of derivative adds one."""

    @staticmethod
    def forward(ctx: Any, graph: Graph, outputs: tuple[Tensor, ...], *inputs: Tensor) -> Any:
        ctx.graph = graph
        ctx.inputs = inputs
        ctx.set_materialize_grads(False)
        # Copies: a write to what the user holds must not reach what the derivative is made of.
        copies = tuple(o.detach().clone() for o in outputs)
        return copies if len(copies) > 1 else copies[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        graph: Graph = ctx.graph
        slot = graph.watcher() if graph.watcher is not None else None
        if slot is not None:
            deferred, total = slot.pull(graph, grads[0])
            if deferred:
                return (None,) * (2 + len(graph.leaves))
            grads = (total,)
        if not torch.is_grad_enabled():
            return (None, None, *graph.vjp(grads))
        return (None, None, *_differentiable(graph, ctx.inputs, grads))


def _differentiable(graph: Graph, inputs: tuple[Tensor, ...], grads: Gradients) -> Gradients:
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
    handed = Pullback.apply(Graph(present, (*graph.leaves, *own)), present, *inputs, *given)
    values = iter(handed if isinstance(handed, tuple) else (handed,))
    return tuple(None if v is None else next(values) for v in result)


def foreign_leaf(y: Tensor, leaves: tuple[Tensor, ...]) -> Tensor | None:
    """A trainable leaf of y's graph that is none of ``leaves``, if there is one."""
    own = {id(leaf) for leaf in leaves}
    if y.grad_fn is None:
        return y if y.requires_grad and id(y) not in own else None
    stack: list[Any] = [y.grad_fn]
    seen: set[Any] = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in own:
            return leaf
        stack.extend(parent for parent, _ in node.next_functions)
    return None
