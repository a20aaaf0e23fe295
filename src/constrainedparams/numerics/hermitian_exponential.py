"""The exponential of a Hermitian matrix: by eigenvalues there, by divided differences back."""

import math
from typing import Any

import torch
from torch import Tensor

from .definite import hermitian, identity_like
from .eigen import eigh
from .elementary import precise, real_diagonal, with_value
from .exponential import frechet

__all__ = ["definite_exponential", "definite_logarithm", "expm_hermitian"]


def _slopes(e: Tensor) -> Tensor:
    """(exp(p) - exp(q)) / (p - q), its limit exp(p) where p = q: no difference of near numbers."""
    p, q = e.unsqueeze(-1), e.unsqueeze(-2)
    gap = (p - q).abs()
    mean = torch.where(gap > 0, -torch.expm1(-gap) / gap, torch.ones_like(gap))
    return torch.exp(torch.maximum(p, q)) * mean


def _reach(dtype: torch.dtype) -> float:
    """Eigenvalues are cut off at plus and minus this; exp of it, times 1000, is a number."""
    return math.log(torch.finfo(dtype).max) - 8.0


def _cut(a: Tensor) -> Tensor:
    """The Hermitian part of A, eigenvalues cut off; the derivative is that of the former."""
    h = hermitian(a)
    with torch.no_grad():
        e, u = eigh(precise(h))
        reach = _reach(a.dtype)
        inside = hermitian((u * e.clamp(-reach, reach).unsqueeze(-2)) @ u.mH).to(h.dtype)
        far = (e.abs() > reach).any(-1)[..., None, None]
        inside = torch.where(far, inside, h)
    return with_value(h, inside)


class _ExpmHermitian(torch.autograd.Function):
    """exp(A), and for the way back the eigenvalues E and vectors U.

    Back: U (F o (U^H G U)) U^H with the divided differences F of exp (Daleckii and Krein 1965),
    which repeated eigenvalues do not disturb, where a derivative of ``eigh`` divides by 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # In double precision, as LAPACK's eigenvalues are off by tens of rounding units of |A|.
        e, u = eigh(precise(hermitian(a)))
        e, u = e.clamp(-_reach(a.dtype), _reach(a.dtype)), u.to(a.dtype)
        return hermitian((u * torch.exp(e).to(u.real.dtype).unsqueeze(-2)) @ u.mH), e, u

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> Tensor:
        a, e, u = ctx.saved_tensors
        if torch.is_grad_enabled():  # E and U are constants to autograd
            return hermitian(frechet(_cut(a), hermitian(g)))
        inner = u.mH @ hermitian(g) @ u
        return hermitian(u @ (_slopes(e).to(u.real.dtype) * inner) @ u.mH)


class _ExpmHermitianForward(_ExpmHermitian):
    """Dynamo refuses a Function that has a forward mode."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, None, None]:
        (a,) = ctx.saved_tensors
        return hermitian(frechet(_cut(a), hermitian(tangent))), None, None


def expm_hermitian(a: Tensor) -> Tensor:
    """exp((A + A^H) / 2) for a batch of matrices, Hermitian to the last bit, with all derivatives.

    Args:
        a: (..., n, n), real or complex.

    Returns:
        (..., n, n), finite: eigenvalues of A count as 80 in single precision (701 in double) where
        they are above, and as minus that where they are below.
    """
    function = _ExpmHermitian if torch.compiler.is_dynamo_compiling() else _ExpmHermitianForward
    result: Tensor = function.apply(a)[0]
    return result


def definite_exponential(x: Tensor, slack: float) -> Tensor:
    """E + slack tr(E) I, E = exp of the Hermitian part of x: definite beyond rounding."""
    e = expm_hermitian(x)
    trace = real_diagonal(e).sum(-1)
    return e + (slack * trace)[..., None, None] * identity_like(e)


def definite_logarithm(p: Tensor, slack: float) -> Tensor:
    """The Hermitian x with definite_exponential(x, slack) = p, in the dtype of p."""
    e, u = torch.linalg.eigh(hermitian(p))
    trace = e.sum(-1, keepdim=True) / (1 + slack * e.shape[-1])
    logs = torch.maximum(e - slack * trace, 0.1 * slack * trace).log()
    return hermitian((u * logs.unsqueeze(-2)) @ u.mH)
