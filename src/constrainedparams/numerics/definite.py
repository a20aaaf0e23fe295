"""Cholesky factors of free matrices and back, and how far a matrix is from having one."""

import math
from typing import Any

import torch
from torch import Tensor

from .elementary import inverse_softplus, precise, real_diagonal, softplus

__all__ = [
    "cholesky",
    "cholesky_factors",
    "clip_eigenvalues",
    "definiteness",
    "factor",
    "factor_inverse",
    "gram",
    "hermitian",
    "identity_like",
    "log_det_gram",
    "log_det_one_plus_gram",
    "root_of_odds",
    "scaled",
    "uniform_spectrum",
    "wishart",
]


def identity_like(x: Tensor) -> Tensor:
    """The identity of the size and real dtype of ``x`` (..., n, n)."""
    return torch.eye(x.shape[-1], dtype=x.real.dtype, device=x.device)


def hermitian(y: Tensor) -> Tensor:
    """(y + y^H)/2, Hermitian to the last bit."""
    return 0.5 * (y + y.mH)


def _floor(dtype: torch.dtype) -> float:
    """Smallest diagonal entry of a factor: its square, and the square's square, are normal."""
    return float(torch.finfo(dtype).tiny) ** 0.25


def factor(x: Tensor, floor: float | None = None) -> Tensor:
    """Lower triangular with positive diagonal: tril(x, -1) + diag(softplus(Re diag x)).

    softplus underflows below x = -104 in float32, and then L L^H would be singular: ``floor`` is
    added, by default 3e-10 in float32 (1e-77 in float64).
    """
    floor = _floor(x.dtype) if floor is None else floor
    diagonal = softplus(real_diagonal(x)) + floor
    return x.tril(-1) + torch.diag_embed(diagonal)


def cholesky_factors(l: Tensor) -> dict[str, Tensor]:
    """L and log det(L L^H) by name, for a lower triangular L with a positive diagonal."""
    logs = real_diagonal(l).log()
    return {"cholesky": l, "logdet": 2 * logs.sum(-1)}


def factor_inverse(factor_: Tensor, dtype: torch.dtype, floor: float | None = None) -> Tensor:
    """The x with factor(x, floor) = L in ``dtype``; strictly lower entries are those of L."""
    floor = _floor(dtype) if floor is None else floor
    diagonal = real_diagonal(factor_) - floor
    x = inverse_softplus(diagonal.clamp_min(torch.finfo(factor_.dtype).tiny))
    return factor_.tril(-1) + torch.diag_embed(x)


class _Gram(torch.autograd.Function):
    """L L^H there, (G + G^H) L back: one product each."""

    generate_vmap_rule = True

    @staticmethod
    def forward(l: Tensor) -> Tensor:
        return hermitian(l @ l.mH)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (l,) = ctx.saved_tensors
        return (g + g.mH) @ l


class _GramForward(_Gram):
    """Dynamo refuses a Function that has a forward mode."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (l,) = ctx.saved_tensors
        return 2 * hermitian(tangent @ l.mH)


def gram(l: Tensor) -> Tensor:
    """L L^H, Hermitian to the last bit, for L (..., n, k)."""
    function = _Gram if torch.compiler.is_dynamo_compiling() else _GramForward
    result: Tensor = function.apply(l)
    return result


def cholesky(p: Tensor, slack: Tensor) -> Tensor:
    """Lower Cholesky factor; where p is definite only up to rounding, of p + diag(slack)."""
    l, info = torch.linalg.cholesky_ex(p)
    if not bool(info.any()):
        return l
    shifted = torch.linalg.cholesky(p + torch.diag_embed(slack))
    return torch.where((info == 0)[..., None, None], l, shifted)


def root_of_odds(c: Tensor, reach: float) -> Tensor:
    """Lower L with L L^H = C (I - C)^-1, for eigenvalues of C in (0, 1); others are moved inside.

    By eigenvalues and QR: forming (I - C)^-1 would square the condition number of L.
    """
    e, u = torch.linalg.eigh(c)
    e = e.clamp(reach, 1 - reach)
    r = torch.linalg.qr((e / (1 - e)).sqrt().unsqueeze(-1) * u.mH)[1]
    return (torch.diagonal(r, dim1=-2, dim2=-1).sgn().conj().unsqueeze(-1) * r).mH


def clip_eigenvalues(h: Tensor, low: float | Tensor, high: float | Tensor | None) -> Tensor:
    """The Hermitian matrix h with its eigenvalues clipped."""
    e, u = torch.linalg.eigh(h)
    return hermitian((u * torch.clip(e, low, high).unsqueeze(-2)) @ u.mH)  # type: ignore[arg-type]


def definiteness(p: Tensor, weight: Tensor) -> Tensor:
    """Smallest eigenvalue of D^-1/2 p D^-1/2, D = diag(weight), in double precision.

    With weight diag(p) this is the correlation matrix of p: its smallest eigenvalue says how
    definite p is whatever the units of its rows (Demmel 1989).
    """
    if p.shape[-1] == 0:
        return weight.new_ones(p.shape[:-2])
    return torch.linalg.eigvalsh(scaled(p, weight))[..., 0]


def scaled(p: Tensor, weight: Tensor) -> Tensor:
    """D^-1/2 p D^-1/2 with D = diag(weight), in double precision; entries cut off at 2.

    Entries of a correlation matrix are at most 1; one cut off at 2 leaves its 2 x 2 minor
    indefinite.
    """
    root = precise(weight)
    root = root.clamp_min(torch.finfo(root.dtype).tiny).sqrt()
    c = precise(p) / root.unsqueeze(-1) / root.unsqueeze(-2)
    if c.is_complex():
        return torch.view_as_complex(torch.view_as_real(c.resolve_conj()).clamp(-2, 2))
    return c.clamp(-2, 2)


def wishart(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Wishart with 2n degrees of freedom and mean I, for shape (..., n, n)."""
    *batch, n, _ = shape
    made: Any = {"dtype": like.dtype, "device": like.device, "generator": generator}
    return gram(torch.randn((*batch, n, 2 * n), **made) / max(2 * n, 1) ** 0.5)


def uniform_spectrum(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Eigenvalues uniform in (0, 1) in a Haar basis, for shape (..., n, n)."""
    made: Any = {"device": like.device, "generator": generator}
    q = torch.linalg.qr(torch.randn(shape, dtype=like.dtype, **made))[0]
    e = torch.rand(shape[:-1], dtype=like.real.dtype, **made)
    return hermitian((q * e.unsqueeze(-2)) @ q.mH)


def log_det_gram(l: Tensor, x: Tensor) -> Tensor:
    """log |det| of x -> L L^H from the triangle of x (L = factor(x)) to that of the product.

    2^n prod l_ii^(n + 1 - i) in the reals, 2^n prod l_ii^(2 (n - i) + 1) in the complex numbers
    (Muirhead 1982, 2.1.9; Mathai 1997, 3.7), times softplus' on the diagonal; i from 1 to n.
    """
    n = x.shape[-1]
    below = torch.arange(n - 1, -1, -1, dtype=x.real.dtype, device=x.device)
    power = 2 * below + 1 if x.is_complex() else below + 1
    diagonal = real_diagonal(l)
    slope = torch.nn.functional.logsigmoid(real_diagonal(x))
    return n * math.log(2) + (power * diagonal.log() + slope).sum(-1)


def log_det_one_plus_gram(l: Tensor) -> Tensor:
    """log det(I + L L^H), by the QR factorisation of [L; I]."""
    identity = torch.eye(l.shape[-1], dtype=l.dtype, device=l.device).expand(l.shape)
    r = torch.linalg.qr(torch.cat((l, identity), dim=-2))[1]
    return 2 * torch.diagonal(r, dim1=-2, dim2=-1).abs().log().sum(-1)
