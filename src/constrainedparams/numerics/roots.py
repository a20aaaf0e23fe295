"""A root of Hermitian matrices by eigenvalues, and the equation behind derivatives of such roots.

From R^2 = A: R dR + dR R = dA, in the basis of the eigenvectors of R a division by sums of two of
its eigenvalues. Repeated ones do not disturb it, unlike a derivative of eigenvectors.
"""

from typing import Any

import torch
from torch import Tensor

from .elementary import precise
from .kernel import Kernel, adjoint, is_traced
from .operation import operator

__all__ = ["floored", "hypotenuse", "spectral", "sylvester"]


def spectral(factors: Tensor, v: Tensor) -> Tensor:
    """v diag(factors) v^H."""
    return (v * factors.unsqueeze(-2)) @ adjoint(v)


def _hermitian(a: Tensor) -> Tensor:
    return 0.5 * (a + adjoint(a))


def floored(s: Tensor) -> Tensor:
    """Singular values as divisors: away from 0 where a matrix is singular."""
    largest = s.amax(dim=-1, keepdim=True)
    tiny = torch.finfo(s.dtype).eps * largest
    return torch.where(largest > 0, s.clamp_min(tiny), torch.ones_like(s))


def _spectrum(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors; of what is not finite, where LAPACK does not end, those of 0."""
    finite = a.isfinite().all(dim=-1).all(dim=-1)[..., None, None]
    return torch.linalg.eigh(torch.where(finite, a, torch.zeros_like(a)))


# P Z + Z P = M ------------------------------------------------------------------------------------


def _solved(p: Tensor, m: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    s, v = _spectrum(p)
    return _solution(s, v, m), (s, v)


def _solution(s: Tensor, v: Tensor, m: Tensor) -> Tensor:
    s = floored(s)
    return v @ (adjoint(v) @ m @ v / (s.unsqueeze(-1) + s.unsqueeze(-2))) @ adjoint(v)


def _solved_back(
    g: Tensor, inputs: tuple[Tensor, ...], kept: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    del inputs
    z, s, v = kept
    w = _solution(s, v, g)
    return -(w @ adjoint(z) + adjoint(z) @ w), w


def _solved_again(g: Tensor, p: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    w, z = sylvester(p, g), sylvester(p, m)
    return -(w @ z.mH + z.mH @ w), w


_SYLVESTER = Kernel(_solved, _solved_back, _solved_again, with_value=True)
_sylvester_operator = operator("sylvester", _SYLVESTER, inputs=2)


def sylvester(p: Tensor, m: Tensor) -> Tensor:
    """The Z with P Z + Z P = M for Hermitian positive definite P; the equation is its own adjoint.

    dZ solves it for dM - dP Z - Z dP.
    """
    return _sylvester_operator(p, m) if is_traced(p) else _SYLVESTER(p, m)


# (I + S^2)^1/2 ------------------------------------------------------------------------------------


def _heights(e: Tensor) -> Tensor:
    return torch.hypot(e, torch.ones_like(e))


def _root(a: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    e, v = _spectrum(precise(_hermitian(a)))
    root = _hermitian(spectral(_heights(e), v)).to(a.dtype)
    return torch.where(a.isfinite().all(-1).all(-1)[..., None, None], root, torch.nan), (e, v)


def _root_back(g: Tensor, inputs: tuple[Tensor, ...], kept: tuple[Any, ...]) -> tuple[Tensor]:
    """Divided differences of (1 + e^2)^1/2: (p + q) / ((1 + p^2)^1/2 + (1 + q^2)^1/2)."""
    (a,), (e, v) = inputs, kept
    h, turned = _heights(e), adjoint(v) @ precise(_hermitian(g)) @ v
    slopes = (e.unsqueeze(-1) + e.unsqueeze(-2)) / (h.unsqueeze(-1) + h.unsqueeze(-2))
    return (_hermitian(v @ (slopes * turned) @ adjoint(v)).to(a.dtype),)


def _root_again(g: Tensor, a: Tensor) -> tuple[Tensor]:
    """R Z + Z R = G gives S Z + Z S, as R dR + dR R = S dS + dS S."""
    s = precise(_hermitian(a))
    z = sylvester(hypotenuse(s), precise(_hermitian(g)))
    return (2 * _hermitian(s @ z).to(a.dtype),)


_HYPOTENUSE = Kernel(_root, _root_back, _root_again)
_hypotenuse_operator = operator("hypotenuse", _HYPOTENUSE)


def hypotenuse(s: Tensor) -> Tensor:
    """(I + S^2)^1/2 of the Hermitian part S, Hermitian to the last bit, with all derivatives.

    By the eigenvalues of S in double precision: I + S^2 would have the square of the condition.

    Args:
        s: (..., n, n), real or complex.

    Returns:
        (..., n, n); where S is not finite, not a number.
    """
    if s.numel() == 0:
        return s.clone()
    return _hypotenuse_operator(s) if is_traced(s) else _HYPOTENUSE(s)
