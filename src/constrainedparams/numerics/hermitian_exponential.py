"""The exponential of a Hermitian matrix: by eigenvalues there, by divided differences back."""

from typing import Any

import torch
from torch import Tensor

from .definite import hermitian
from .exponential import frechet

__all__ = ["expm_hermitian"]


def _slopes(e: Tensor) -> Tensor:
    """(exp(p) - exp(q)) / (p - q), its limit exp(p) where p = q: no difference of near numbers."""
    p, q = e.unsqueeze(-1), e.unsqueeze(-2)
    gap = (p - q).abs()
    mean = torch.where(gap > 0, -torch.expm1(-gap) / gap, torch.ones_like(gap))
    return torch.exp(torch.maximum(p, q)) * mean


class _ExpmHermitian(torch.autograd.Function):
    """exp(A), and for the way back the eigenvalues E and vectors U.

    Back: U (F o (U^H G U)) U^H with the divided differences F of exp (Daleckii and Krein 1965),
    which repeated eigenvalues do not disturb, where a derivative of ``eigh`` divides by 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        e, u = torch.linalg.eigh(hermitian(a))
        return hermitian((u * torch.exp(e).unsqueeze(-2)) @ u.mH), e, u

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> Tensor:
        a, e, u = ctx.saved_tensors
        if torch.is_grad_enabled():  # E and U are constants to autograd
            return hermitian(frechet(hermitian(a), hermitian(g)))
        inner = u.mH @ hermitian(g) @ u
        return hermitian(u @ (_slopes(e) * inner) @ u.mH)


class _ExpmHermitianForward(_ExpmHermitian):
    """Dynamo refuses a Function that has a forward mode."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, None, None]:
        (a,) = ctx.saved_tensors
        return hermitian(frechet(hermitian(a), hermitian(tangent))), None, None


def expm_hermitian(a: Tensor) -> Tensor:
    """exp((A + A^H) / 2) for a batch of matrices, Hermitian to the last bit, with all derivatives.

    Args:
        a: (..., n, n), real or complex.

    Returns:
        (..., n, n). It overflows where the largest eigenvalue does, from 88.7 in single precision.
    """
    compiling = torch.compiler.is_dynamo_compiling()
    result: Tensor = (_ExpmHermitian if compiling else _ExpmHermitianForward).apply(a)[0]
    return result
