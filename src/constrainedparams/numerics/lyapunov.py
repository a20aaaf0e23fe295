"""Equations of Lyapunov and Stein by doubling: n^3, not the n^2 x n^2 system; no derivative."""

import torch
from torch import Tensor

from .compensated import product, total
from .elementary import precise

__all__ = ["lyapunov", "stein"]

_MOST_DOUBLINGS = 60
_REFINEMENTS = 2


def _powers(c: Tensor) -> list[Tensor]:
    """C, C^2, C^4, ... until what is left out of the sum of the series is below rounding."""
    powers = [c]
    eps = torch.finfo(c.dtype).eps
    for _ in range(_MOST_DOUBLINGS):
        size = torch.linalg.matrix_norm(powers[-1])
        if not bool(((size > eps) & size.isfinite()).any()):
            break
        powers.append(powers[-1] @ powers[-1])
    return powers


def _series(powers: list[Tensor], q: Tensor) -> Tensor:
    """sum of (C^H)^k Q C^k, by doubling the number of terms (Smith 1968)."""
    for c in powers:
        q = q + c.mH @ q @ c
    return q


def _hermitian(p: Tensor) -> Tensor:
    return 0.5 * (p + p.mH)


def _stein_residual(a: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Q - (P - A^H P A)."""
    high, low = product(p, a)
    return total(q, -p, *product(a.mH, high), a.mH @ low)[0]


def stein(a: Tensor, q: Tensor) -> Tensor:
    """The Hermitian P with P - A^H P A = Q, for a spectral radius of A below 1.

    P = sum of (A^H)^k Q A^k, whose partial sums of 2^k terms take 3 products each; then the
    residual goes through the same sum again, which takes out the rounding of the powers.

    Args:
        a: (..., n, n), real or complex.
        q: (..., n, n), Hermitian.

    Returns:
        (..., n, n) in double precision; not finite where the spectral radius is not below 1.
    """
    with torch.no_grad():
        a, q = precise(a), precise(q).expand(a.shape)
        powers = _powers(a)
        p = _hermitian(_series(powers, q))
        for _ in range(_REFINEMENTS):
            p = p + _hermitian(_series(powers, _stein_residual(a, p, q)))
        return p


def lyapunov(a: Tensor, q: Tensor) -> Tensor:
    """The Hermitian P with A P + P A^H = -Q, for eigenvalues of A with real parts below 0.

    With C = (A - g)^-1 (A + g), g > 0, it is P - C P C^H = 2 g N Q N^H, N = (A - g)^-1, an equation
    of Stein: |C^k| -> 0 because the map takes the left half plane into the disc. g is the geometric
    mean of |A| and 1/|A^-1|, between the largest and the smallest eigenvalue.

    Args:
        a: (..., n, n), real or complex.
        q: (..., n, n), Hermitian.

    Returns:
        (..., n, n) in double precision; not finite, or not a solution, where A has an eigenvalue
        with a real part that is not below 0.
    """
    with torch.no_grad():
        a, q = precise(a), precise(q).expand(a.shape)
        one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        inverse = torch.linalg.inv_ex(a)[0]
        sizes = [torch.linalg.matrix_norm(t, keepdim=True) for t in (a, inverse)]
        g = (sizes[0] / sizes[1]).sqrt()
        n = torch.linalg.inv_ex(a - g * one)[0]
        powers = _powers((n @ (a + g * one)).mH)

        def solved(q: Tensor) -> Tensor:
            return _hermitian(_series(powers, 2 * g * (n @ q @ n.mH)))

        p = solved(q)
        for _ in range(_REFINEMENTS):
            high, low = product(a, p)
            p = p + solved(total(q, high, high.mH, low, low.mH)[0])
        return p
