"""One way to call f, whatever it is."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FunctionError
from ..sets.contract import Constraint, raised
from .describe import describe


def parameters_of(function: Any) -> dict[str, nn.Parameter]:
    """The parameters of an ``nn.Module`` f; any other has none that it owns."""
    return dict(function.named_parameters()) if isinstance(function, nn.Module) else {}


def call(
    function: Any, x: Tensor, state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> Tensor:
    """f(x) with f's parameters replaced by ``own``, in at least float32, rounded to x's dtype."""
    if isinstance(function, Constraint):
        return function.forward(x, **state)  # it rounds by itself: an open bound stays open
    raw = raised(x)
    if own:
        low = raw.dtype != x.dtype
        mine = {k: raised(v) if low else v for k, v in own.items()}
        y = torch.func.functional_call(function, mine, (raw,))
    else:
        y = function(raw)
    if not isinstance(y, Tensor):
        raise FunctionError(
            f"{describe(function)} returned {type(y).__name__}; a constrained parameter needs one "
            "tensor. Return the tensor itself, not a tuple, list or number."
        )
    if y.dtype != raw.dtype:
        raise FunctionError(
            f"{describe(function)} returned {y.dtype} for an input of {raw.dtype}; the constrained "
            f"tensor keeps the dtype of its parameter. End the function with `.to(x.dtype)`."
        )
    if y.device != x.device:
        raise FunctionError(
            f"{describe(function)} returned a tensor on {y.device} for an input on {x.device}. "
            "Create its constants on `x.device`, or make the function an nn.Module with buffers."
        )
    return y.to(x.dtype)


def finite_or_raise(function: Any, y: Tensor, where: str) -> None:
    """NaN and infinity are refused at registration, where the start can still be changed."""
    if not bool(torch.isfinite(y).all()):
        bad = int((~torch.isfinite(y)).sum())
        raise FunctionError(
            f"{where}: {describe(function)} gave {bad} of {y.numel()} entries that are NaN or "
            "infinite at the present value of the parameter. Start from a value on which the "
            "function is finite, or write the function so that it is."
        )
