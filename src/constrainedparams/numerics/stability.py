"""Matrices whose powers or exponentials decay: one-to-one maps onto them, and how far they are off.

Both maps follow from an equation with a unique solution, Stein's and Lyapunov's, with the identity
on its right-hand side. It has as many unknowns as a triangle, and the rest of the matrix is free.
"""

from typing import Any

import torch
from torch import Tensor

from .definite import factor, factor_inverse, gram
from .elementary import precise
from .kernel import Kernel, adjoint, by_formula, is_traced
from .lyapunov import lyapunov, stein
from .operation import like_the_first, opaque, operator

__all__ = [
    "abscissa",
    "contracting",
    "contracting_factor",
    "contracting_inverse",
    "decaying",
    "decaying_inverse",
    "log_pairs",
    "returns",
    "rounding",
    "skew_above",
    "spectral_radius",
    "stable",
]


def spectral_radius(y: Tensor) -> Tensor:
    """Largest |eigenvalue|, in double precision."""
    if y.shape[-1] == 0:
        return precise(y).real.sum((-2, -1))
    return torch.linalg.eigvals(precise(y)).abs().amax(-1)


def abscissa(y: Tensor) -> Tensor:
    """Largest real part of an eigenvalue, in double precision; of none, minus infinity."""
    if y.shape[-1] == 0:
        return precise(y).real.sum((-2, -1)) - torch.inf
    return torch.linalg.eigvals(precise(y)).real.amax(-1)


# spectral radius below 1 -------------------------------------------------------------------------


def contracting_factor(x: Tensor) -> Tensor:
    """The upper triangular R with positive diagonal and R^H R = I + X^H X: of the QR of [X; I]."""
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(x.shape)
    r = torch.linalg.qr(torch.cat((x, identity), dim=-2))[1]
    return torch.diagonal(r, dim1=-2, dim2=-1).sgn().conj().unsqueeze(-1) * r


def _solved(x: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(contracting_factor(x), x, upper=True)


def _there(x: Tensor) -> tuple[Tensor, tuple[Tensor]]:
    r = contracting_factor(x)
    return torch.linalg.solve_triangular(r, x, upper=True), (r,)


def _back(g: Tensor, inputs: tuple[Tensor, ...], kept: tuple[Any, ...]) -> tuple[Tensor]:
    """With C = X R^-1 and dY = dX R^-1: R dA R^-1 = dY - up(C^H dY + dY^H C) C.

    up(H) is the upper triangle with half of the diagonal: dR R^-1, whose Hermitian sum is H.
    """
    (x,), (r,) = inputs, kept
    solve = torch.linalg.solve_triangular
    c = solve(r, x, upper=True, left=False)
    g = solve(adjoint(r), g @ adjoint(r), upper=False)
    u = (g @ adjoint(c)).triu()
    u = u - 0.5 * torch.diag_embed(torch.diagonal(u, dim1=-2, dim2=-1))
    g = g - c @ (u + adjoint(u))
    return (solve(adjoint(r), g, upper=False, left=False),)


_CONTRACTING = Kernel(_there, _back, by_formula(_solved))
_operator = operator("contracting", _CONTRACTING)


def contracting(x: Tensor) -> Tensor:
    """A = R^-1 X with R^H R = I + X^H X, of spectral radius below 1.

    P = R^H R solves P - A^H P A = I + X^H X - X^H X = I, so x^H P x decreases along x -> A x. The
    other way, an A with spectral radius below 1 has one such P, and X = R A.

    Args:
        x: (..., n, n), real or complex.
    """
    if x.numel() == 0:
        return x.clone()
    return _operator(x) if is_traced(x) else _CONTRACTING(x)


def contracting_inverse(a: Tensor) -> Tensor:
    """The X with contracting(X) = A, in double precision; not finite where P is not definite."""
    wide = precise(a)
    one = torch.eye(a.shape[-1], dtype=wide.dtype, device=a.device)
    l, info = torch.linalg.cholesky_ex(stein(wide, one))
    return torch.where((info == 0)[..., None, None], l.mH @ wide, torch.nan)


# real parts below 0 ------------------------------------------------------------------------------


def skew_above(x: Tensor) -> Tensor:
    """Skew-Hermitian matrix of the strict upper triangle, and of the imaginary diagonal."""
    strict = x.triu(1)
    s = strict - strict.mH
    if x.is_complex():
        s = s + torch.diag_embed(1j * torch.diagonal(x, dim1=-2, dim2=-1).imag)
    return s


def decaying(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A = (S - I) L L^H, real parts of eigenvalues below 0; S - I and L.

    P = (L L^H)^-1 solves A P + P A^H = (S - I) + (S - I)^H = -2 I. The other way, an A whose
    eigenvalues have real parts below 0 has one such P, and S = A P + I.

    Args:
        x: (..., n, n): L = factor(x) reads the lower triangle, S the rest.
    """
    l, s = factor(x), skew_above(x)
    s = s - torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return s @ gram(l), s, l


def decaying_inverse(a: Tensor) -> Tensor:
    """The x with decaying(x) = A, in double precision; not finite where P is not definite.

    P = U U^H with U upper triangular, by Cholesky from the last row up, and L = U^-H.
    """
    wide = precise(a)
    one = torch.eye(a.shape[-1], dtype=wide.dtype, device=a.device)
    p = lyapunov(wide, 2 * one)
    u, info = torch.linalg.cholesky_ex(p.flip((-2, -1)))
    u = torch.where((info == 0)[..., None, None], u.flip((-2, -1)), torch.nan)
    l = torch.linalg.solve_triangular(u, one.expand(u.shape), upper=True).mH
    s = wide @ p + one
    s = 0.5 * (s - s.mH)
    x = factor_inverse(l, l.dtype) + s.triu(1)
    return x + torch.diag_embed(torch.diagonal(s, dim1=-2, dim2=-1)) if a.is_complex() else x


def returns(back: Tensor, a: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether all of ``back`` is A to half of the digits of ``dtype``, or better."""
    gap, size = (torch.linalg.matrix_norm(t) for t in (back - a, a))
    return (gap <= torch.finfo(dtype).eps ** 0.5 * size.clamp_min(1e-300)).all()


# rounding ----------------------------------------------------------------------------------------


def rounding(x: Tensor) -> float:
    """How far a matrix computed in double precision and rounded to that of x may be off."""
    return torch.finfo(x.dtype).eps + 8 * x.shape[-1] * torch.finfo(torch.float64).eps


def _moved(y: Tensor, sure: Tensor, bound: float, disc: bool) -> Tensor:
    moved, off = y.clone(), ~sure & y.isfinite().all(-1).all(-1)
    measure = spectral_radius if disc else abscissa
    step = torch.full_like(precise(y).real[..., :1, :1], torch.finfo(y.dtype).eps)
    size = torch.linalg.matrix_norm(precise(y), keepdim=True) + abs(bound)
    one = torch.eye(y.shape[-1], dtype=y.real.dtype, device=y.device)
    noise = 8 * y.shape[-1] * torch.finfo(size.dtype).eps * size[..., 0, 0]  # of the eigenvalues
    while bool(off.any()):
        off = off & ~(measure(torch.where(off[..., None, None], moved, 0)) + noise < bound)
        where = off[..., None, None]
        nearer = (1 - step).clamp_min(0) * y if disc else y - step * size * one
        moved = torch.where(where, nearer.to(y.dtype), moved)
        step = torch.where(where, 2 * step, step)
        off = off & (step[..., 0, 0] < 8)
    return moved


# Opaque, because what it costs depends on values: eigenvalues are for the few that need them.
_stable = opaque(
    "stable", "(Tensor y, Tensor sure, float bound, bool disc) -> Tensor", _moved, like_the_first
)


def stable(y: Tensor, sure: Tensor, *, bound: float, disc: bool) -> Tensor:
    """``y`` with all eigenvalues inside in spite of rounding (no derivative).

    Eigenvalues of the matrix as it is stored are computed where it is not ``sure`` that rounding
    left them inside. Where it did not, y is made smaller, or the real parts are moved to the left,
    by a rounding unit, two, four, ... until they are.

    Args:
        y: (..., n, n).
        sure: (...), where nothing needs to be done.
        bound: spectral radii (``disc``) or else real parts of eigenvalues come below it.
    """
    return _stable(y, sure, bound, disc) if y.shape[-1] else y


def log_pairs(eigenvalues: Tensor, hermitian: bool, disc: bool) -> Tensor:
    """log |det| of H -> H - C^H H C (``disc``) or (B H + H B^H) / 2 on Hermitian or symmetric H.

    Its eigenvalues are 1 - conj(a) b, or (a + conj(b)) / 2, for pairs of eigenvalues: all of them
    in the Hermitian case, each unordered one once in the symmetric case.
    """
    a, b = eigenvalues.unsqueeze(-1), eigenvalues.unsqueeze(-2)
    b = b.conj() if hermitian else b
    logs = (1 - a * b if disc else 0.5 * (a + b)).abs().log()
    return (logs if hermitian else logs.tril()).sum((-2, -1))
