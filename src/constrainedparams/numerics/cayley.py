"""The Cayley transform of square skew-Hermitian matrices, moved to a base.

With N = 2 I - A, A = skew(x), and N^-1 (2 I + A) = 4 N^-1 - I,

    y = base (I - A/2)^-1 (I + A/2) = 4 Z - base  for  Z = base N^-1:

the base takes part in the solve and costs no product. From dZ = Z dA N^-1 the gradient of A is
4 Z^H (g N^-H), one solve with the same factors and one product.

N is never singular, as its Hermitian part is 2 I, so that nothing has to wait for an answer of the
device. Its factors P L U stand on the right: Z is base U^-1 L^-1 P^T, and g N^-H is g P L^-H U^-H.
``torch.linalg.lu_solve`` from the right takes 2.0 to 2.7 products of n^3 (n = 512, one thread) for
what two triangular solves from the right do in 1.4. Below ``_SIZE`` calls outweigh products, and
torch's own derivative of the formula has fewer of them.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .kernel import Kernel, adjoint, by_formula, is_traced
from .skew import skew, skew_adjoint

__all__ = ["cayley_square"]

_SIZE = 96


def _two_plus(a: Tensor) -> Tensor:
    """2 I + A in place: the conjugate transpose of N."""
    torch.diagonal(a, dim1=-2, dim2=-1).add_(2)
    return a


def _columns(z: Tensor, order: Tensor) -> Tensor:
    """The columns of ``z`` in another order."""
    if z.ndim == 2:  # in a tenth of the time
        return z.index_select(-1, order)
    return torch.take_along_dim(z, order.unsqueeze(-2), dim=-1)


def _there(base: Tensor, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    n = adjoint(_two_plus(skew(x)))  # for real x as LAPACK reads it, column by column
    factors, pivots, _ = torch.linalg.lu_factor_ex(n)
    p, _, _ = torch.lu_unpack(factors, pivots, unpack_data=False)
    order = p.real.argmax(-1)
    z = torch.linalg.solve_triangular(factors, base, upper=True, left=False)
    z = torch.linalg.solve_triangular(factors, z, upper=False, left=False, unitriangular=True)
    z = _columns(z, order)
    return torch.sub(4 * z, base), (factors, order, z)


def _back(g: Tensor, inputs: tuple[Tensor, ...], kept: tuple[Any, ...]) -> tuple[None, Tensor]:
    del inputs
    factors, order, z = kept
    solve, adjoint_factors = torch.linalg.solve_triangular, adjoint(factors)
    h = _columns(g, order.argsort(-1))
    h = solve(adjoint_factors, h, upper=True, left=False, unitriangular=True)
    h = solve(adjoint_factors, h, upper=False, left=False)
    return None, skew_adjoint(adjoint(z) @ h).mul_(4)


def _formula(base: Tensor, x: Tensor) -> Tensor:
    two = 2 * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    z, _ = torch.linalg.solve_ex(two - skew(x), base, left=False)
    return 4 * z - base


def _again(g: Tensor, base: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    (gx,) = by_formula(partial(_formula, base))(g, x)
    return torch.zeros_like(base), gx


_CAYLEY = Kernel(_there, _back, _again)


def cayley_square(base: Tensor | None, x: Tensor) -> Tensor:
    """base (I - A/2)^-1 (I + A/2), A the skew-Hermitian matrix of the lower triangle of x.

    Args:
        base: (..., n, n), a constant; None: the identity.
        x: (..., n, n), real or complex, in single or double precision.

    Returns:
        (..., n, n), orthonormal columns where base has them, but for rounding.
    """
    if base is None:
        base = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    base = base.detach().expand(x.shape)
    small = x.shape[-1] < _SIZE or x.numel() == 0
    return _formula(base, x) if small or is_traced(x) else _CAYLEY(base, x)
