"""Eigenvalues and vectors of Hermitian matrices, in compiled graphs as one opaque operation."""

from typing import Any

import torch
from torch import Tensor

from .kernel import is_traced
from .operation import no_cuda_graph, opaque

__all__ = ["eigh"]


def _there(a: Tensor) -> tuple[Tensor, Tensor]:
    e, v = torch.linalg.eigh(a)
    return e, v  # a plain tuple, as the schema has it


def _back(ctx: Any, ge: Tensor, gv: Tensor) -> Tensor:
    """That of torch, for exported programs: they keep the operation, not the Function around it."""
    (a,) = ctx.saved_tensors
    found: Tensor = torch.func.vjp(_there, a)[1]((ge, gv))[0]
    return found


def _save(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _shapes(a: Tensor) -> tuple[Tensor, Tensor]:
    no_cuda_graph()
    return a.new_empty(a.shape[:-1], dtype=a.real.dtype), a.new_empty(a.shape)


_operator = opaque("eigh", "(Tensor a) -> (Tensor, Tensor)", _there, _shapes, _back, _save)


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """``torch.linalg.eigh`` without derivatives, for the inside of an ``autograd.Function``.

    The host waits for it, so that no CUDA graph can have it inside. Dynamo does not keep a Function
    everywhere (not under ``torch.func``); what is inside must be derivable by itself there.

    Args:
        a: (..., n, n), Hermitian; the lower triangle is read.

    Returns:
        (..., n) ascending, and (..., n, n) with the vectors as columns.
    """
    traced = is_traced(a) and not torch.compiler.is_dynamo_compiling()
    e, v = (_operator if traced else torch.linalg.eigh)(a)
    return e, v
