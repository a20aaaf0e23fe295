"""Whether f uses a tensor that trains and that it does not own."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from .describe import describe

_ACCUMULATE: Any = type(get_gradient_edge(torch.zeros((), requires_grad=True)).node)  # of any leaf


def captured(y: Tensor, leaves: tuple[Tensor, ...], function: Any) -> str:
    """What y depends on beside ``leaves``, and the remedy; "" when there is nothing."""
    foreign = _foreign_leaf(y, leaves)
    if foreign is None:
        return ""
    return (
        f"{describe(function)} also depends on a tensor of shape {tuple(foreign.shape)} that "
        "trains and that it does not own. Make the function an nn.Module that has the tensor as a "
        "parameter, or use `tensor.detach()` in it."
    )


def _foreign_leaf(y: Tensor, leaves: tuple[Tensor, ...]) -> Tensor | None:
    """A trainable leaf of y's graph that is none of ``leaves``, if there is one."""
    own = {id(leaf) for leaf in leaves}
    if y.grad_fn is None:
        return y if y.requires_grad and id(y) not in own else None
    stack: list[Any] = [y.grad_fn]
    seen: set[Any] = set()
    while stack:
        node: Any = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node) is not _ACCUMULATE:
            stack += [parent for parent, _ in node.next_functions]
        elif id(leaf := node.variable) not in own:
            return leaf
    return None
