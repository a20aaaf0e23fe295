"""Products and solutions of triangular matrices without the work on blocks that are 0 or unused.

By blocks of rows; "upper" and "lower" are triangular. A small matrix is one block, where a product
is a plain one, and entries that are not asked for are whatever comes.
"""

import torch
from torch import Tensor

from .kernel import adjoint

__all__ = ["lower_product", "solved_lower", "solved_upper", "upper_of_product"]

_BLOCK = 64


def _blocks(m: Tensor) -> list[tuple[int, int]]:
    """Beginning and end of each block of rows."""
    k = m.shape[-2]
    size = _BLOCK if k >= 2 * _BLOCK else max(k, 1)
    return [(s, min(s + size, k)) for s in range(0, max(k, 1), size)]


def upper_of_product(a: Tensor, b: Tensor) -> Tensor:
    """The upper triangle of a b, for an upper a or a lower b, all (..., k, k)."""
    rows = _blocks(a)
    if len(rows) == 1:
        return a @ b
    y = torch.zeros_like(b)
    for s, e in rows:
        y[..., s:e, s:] = a[..., s:e, s:] @ b[..., s:, s:]
    return y


def lower_product(a: Tensor, b: Tensor) -> Tensor:
    """a b for a lower a, (..., k, k)."""
    rows = _blocks(a)
    if len(rows) == 1:
        return a @ b
    return torch.cat([a[..., s:e, :e] @ b[..., :e, :] for s, e in rows], dim=-2)


def solved_upper(a: Tensor, b: Tensor) -> Tensor:
    """a^-1 b for an upper a and an upper b."""
    rows = _blocks(a)
    if len(rows) == 1:
        return torch.linalg.solve_triangular(a, b, upper=True)
    y = torch.zeros_like(b)
    for s, e in reversed(rows):
        right = b[..., s:e, s:].clone()
        right[..., e - s :] -= a[..., s:e, e:] @ y[..., e:, e:]
        y[..., s:e, s:] = torch.linalg.solve_triangular(a[..., s:e, s:e], right, upper=True)
    return y


def solved_lower(a: Tensor, b: Tensor) -> Tensor:
    """The upper triangle of a^-H b for an upper a and the upper triangle of b."""
    rows = _blocks(a)
    if len(rows) == 1:
        return torch.linalg.solve_triangular(adjoint(a), b, upper=False)
    y = torch.zeros_like(b)
    for s, e in rows:
        right = b[..., s:e, s:] - adjoint(a[..., :s, s:e]) @ y[..., :s, s:]
        turned = adjoint(a[..., s:e, s:e])
        y[..., s:e, s:] = torch.linalg.solve_triangular(turned, right, upper=False)
    return y
