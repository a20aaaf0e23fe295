"""The largest singular value of a matrix, with derivatives where singular values repeat."""

from typing import Any

import torch
from torch import Tensor

from .definite import hermitian
from .eigen import eigh

__all__ = ["spectral_norm"]


def _cluster(e: Tensor) -> Tensor:
    """1 for the ascending eigenvalues that equal the largest to rounding, the last one left out."""
    eps = torch.finfo(e.dtype).eps
    same = e >= (1 - 32 * e.shape[-1] * eps) * e[..., -1:]
    last = torch.arange(e.shape[-1], device=e.device) == e.shape[-1] - 1
    return (same & ~last).to(e.dtype)


class _Top(torch.autograd.Function):
    """An eigenvector v of the largest eigenvalue of G, and a basis of the others of that value.

    dv = (lambda - G)^+ dG v within the complement of all of them: where the value repeats, v has no
    derivative in their span, and 0 stands for it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor) -> tuple[Tensor, Tensor]:
        e, v = eigh(g)
        return v[..., -1:].contiguous(), (v * _cluster(e).unsqueeze(-2)).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, *output)
        ctx.save_for_forward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, gv: Tensor, _: Tensor) -> Tensor:
        g, v, others = ctx.saved_tensors
        return hermitian(_resolved(g, v, others, gv) @ v.mH)


class _TopForward(_Top):
    """Dynamo refuses a Function that has a forward mode."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, None]:
        g, v, others = ctx.saved_tensors
        return _resolved(g, v, others, hermitian(tangent) @ v), None


def _resolved(g: Tensor, v: Tensor, others: Tensor, w: Tensor) -> Tensor:
    """(lambda - G)^+ w, outside of the span of v and ``others``, lambda = v^H G v."""
    value = (v.mH @ g @ v).real
    span = v @ v.mH + others @ others.mH
    # On the span lambda - G is 0: there value keeps the matrix regular, and w has no part.
    identity = torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)
    matrix = value * (identity + span) - g
    rest = w - span @ w
    z, _ = torch.linalg.solve_ex(matrix, rest)
    return z - span @ z


def _outer(x: Tensor) -> Tensor:
    """u v^H of the largest singular value, with derivatives of its own."""
    compiling = torch.compiler.is_dynamo_compiling()
    v = (_Top if compiling else _TopForward).apply(x.mH @ x)[0]
    u = x @ v
    return (u @ v.mH) / torch.linalg.vector_norm(u, dim=(-2, -1), keepdim=True)


class _Norm(torch.autograd.Function):
    """The largest singular value s, and u v^H, its derivative (a subgradient where s repeats)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        v = eigh(x.mH @ x)[1][..., -1:]
        u = x @ v
        s = torch.linalg.vector_norm(u, dim=(-2, -1), keepdim=True)
        return s, ((u / s) @ v.mH).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gs: Tensor, _: Tensor) -> Tensor:
        x, outer = ctx.saved_tensors
        return gs * (_outer(x) if torch.is_grad_enabled() else outer)


class _NormForward(_Norm):
    """Dynamo refuses a Function that has a forward mode."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return (_outer(x).conj() * tangent).sum((-2, -1), keepdim=True).real, None


def spectral_norm(x: Tensor) -> Tensor:
    """The largest singular value of x, exact: no power iteration, no state.

    Where it repeats, the gradient is u v^H of one pair of singular vectors, and the part of second
    derivatives that does not exist is left out.

    Args:
        x: (..., n, k), not 0; at least as many rows as columns is cheaper.

    Returns:
        (..., 1, 1), real.
    """
    compiling = torch.compiler.is_dynamo_compiling()
    result: Tensor = (_Norm if compiling else _NormForward).apply(x)[0]
    return result
