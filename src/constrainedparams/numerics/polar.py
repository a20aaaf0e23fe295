"""The polar factor of a tall or square matrix, with a derivative by a Sylvester equation.

x = y P with y^H y = I and P = (x^H x)^(1/2): y = x P^-1 is the nearest matrix with orthonormal
columns (Higham, Computing the polar decomposition, 1986). From x = y P,

    P W + W P = y^H dx - dx^H y  for  W = y^H dy,    dy = y W + (I - y y^H) dx P^-1,

so that with P Z + Z P = (y^H g - g^H y) / 2 the gradient of x is 2 y Z + (I - y y^H) g P^-1. In the
basis of the eigenvectors of P the equation is a division by sums of two singular values of x: no
difference of two of them, unlike the derivative of an SVD or of eigenvectors.

Single precision: P by the eigenvalues of the Gram matrix x^H x in double precision, k x k. That
squares the condition number c of x and leaves y off by about c^2 / 2^53, so that from c = 1000 on,
and for double precision, it is the SVD of R in x = Q R.
"""

from typing import Any

import torch
from torch import Tensor

from .elementary import precise, real_diagonal
from .kernel import Kernel, adjoint, is_traced
from .operation import operator
from .roots import floored, spectral, sylvester
from .tall import double_gram, double_product, sum_of_products

__all__ = ["inverse_square_root", "polar_factor"]

# Smallest over largest singular value: from where single precision is enough for x P^-1, and below
# which the eigenvalues of the Gram matrix are not.
_WELL, _ILL = 0.25, 1e-3


def _by_svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, the singular values of x, and its right singular vectors."""
    finite = x.isfinite().all(dim=-1).all(dim=-1)[..., None, None]  # LAPACK does not end else
    q, r = torch.linalg.qr(precise(torch.where(finite, x, torch.zeros_like(x))))
    u, s, vh = torch.linalg.svd(r)
    y = (q @ (u @ vh)).to(x.dtype)
    return torch.where(finite, y, torch.full_like(y, torch.nan)), floored(s), adjoint(vh)


def _there(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Waits for the device: for the decomposition, and once to ask for the condition number."""
    if x.dtype in (torch.float64, torch.complex128):
        y, s, v = _by_svd(x)
        return y, (s, v, spectral(1 / s, v))
    e, v = torch.linalg.eigh(double_gram(x).nan_to_num(0.0, 0.0, 0.0))
    s = e.clamp_min(0).sqrt()
    least = (s[..., 0] / s[..., -1]).nan_to_num(
        0.0
    )  # they ascend; 0 / 0 for x = 0 and beyond range
    s = s.clamp_min(torch.finfo(s.dtype).tiny)  # where that matters it is not used
    inverse = spectral(1 / s, v)
    worst = float(least.amin())
    y = x @ inverse.to(x.dtype) if worst > _WELL else double_product(x, inverse)
    if worst < _ILL:
        other, fine = _by_svd(x), least >= _ILL
        y = torch.where(fine[..., None, None], y, other[0])
        s = torch.where(fine.unsqueeze(-1), s, other[1])
        v = torch.where(fine[..., None, None], v, other[2])
        inverse = spectral(1 / s, v)
    return y, (s, v, inverse)


def _back(g: Tensor, inputs: tuple[Tensor, ...], kept: tuple[Any, ...]) -> tuple[Tensor]:
    (x,), (y, s, v, inverse) = inputs, kept
    c = precise(adjoint(y) @ g)
    turned = (adjoint(v) @ (c - adjoint(c)) @ v) / (s.unsqueeze(-1) + s.unsqueeze(-2))
    z = v @ turned @ adjoint(v)
    if x.shape[-2] == x.shape[-1]:  # nothing is off the columns of y, and P^-1 blows up rounding
        return (y @ z.to(y.dtype),)
    left, right = inverse.to(y.dtype), (z - c @ inverse).to(y.dtype)
    return (sum_of_products(g, left, y, right),)


# the way back in operations with derivatives of their own -----------------------------------------


def _again(g: Tensor, x: Tensor) -> tuple[Tensor]:
    y = precise(polar_factor(precise(x)))
    wide, g_wide = precise(x), precise(g)
    p = y.mH @ wide
    p = 0.5 * (p + p.mH)
    identity = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    size = real_diagonal(p).sum(-1).detach()[..., None, None]
    floor = torch.where(size > 0, torch.finfo(p.dtype).eps * size, torch.ones_like(size))
    c = y.mH @ g_wide
    z = sylvester(p, c - c.mH)
    if x.shape[-2] == x.shape[-1]:
        return ((y @ z).to(x.dtype),)
    rest = torch.linalg.solve_ex(p + floor * identity, g_wide - y @ c, left=False)[0]
    return ((y @ z + rest).to(x.dtype),)


_POLAR = Kernel(_there, _back, _again, with_value=True)
_operator = operator("polar_factor", _POLAR)


def polar_factor(x: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns, y = x (x^H x)^(-1/2), with all derivatives.

    Args:
        x: (..., n, k), n >= k, real or complex, in single or double precision.

    Returns:
        (..., n, k). Rank deficient x have several nearest matrices: one of them, and a gradient
        that is finite. The gradient grows as 1 / (smallest singular value of x). Where x is not
        finite, y is not.
    """
    if x.numel() == 0:
        return x.clone()
    return _operator(x) if is_traced(x) else _POLAR(x)


def inverse_square_root(a: Tensor) -> Tensor:
    """A^(-1/2) for Hermitian positive definite A, with all derivatives.

    L^-H U with A = L L^H and U the polar factor of L^H: L^H = U P has P^2 = L L^H, so that
    P^-1 = L^-H U. The condition of L is the root of that of A.

    Args:
        a: (..., n, n), real or complex, in single or double precision; read below the diagonal.

    Returns:
        (..., n, n), computed in double precision; not a number where A is not definite.
    """
    l, info = torch.linalg.cholesky_ex(precise(a))
    l = torch.where((info == 0)[..., None, None], l, torch.nan)
    root = torch.linalg.solve_triangular(l.mH, polar_factor(l.mH), upper=True)
    return root.to(a.dtype)
