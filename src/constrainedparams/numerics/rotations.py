"""Rotations of space: from two columns, from a quaternion, and back."""

import torch
from torch import Tensor

from .vectors import unit

__all__ = ["from_columns", "from_quaternion", "quaternion"]


def from_columns(x: Tensor) -> Tensor:
    """The rotation whose first two columns are those of x (..., 3, 2) after Gram and Schmidt.

    b1 = a1/|a1|, b2 in the direction of a2 - b1 (b1 . a2), b3 = b1 x b2 (Zhou, Barnes, Lu, Yang,
    Li, arXiv 1812.07035). Where a2 is parallel to a1, up to rounding, b2 starts at the axis that
    is farthest from b1. What rounding leaves of b1 in b2 is taken off once more.
    """
    a1, a2 = x[..., 0], x[..., 1]
    b1 = unit(a1)
    direction = unit(a2)
    rest = direction - b1 * (b1 * direction).sum(-1, keepdim=True)
    axis = torch.zeros_like(b1).scatter(-1, b1.detach().abs().argmin(-1, keepdim=True), 1.0)
    spare = axis - b1 * (b1 * axis).sum(-1, keepdim=True)
    size = torch.linalg.vector_norm(rest.detach(), dim=-1, keepdim=True)
    parallel = size <= 8 * torch.finfo(x.dtype).eps
    b2 = unit(torch.where(parallel, spare + rest, rest))
    b2 = unit(b2 - b1 * (b1 * b2).sum(-1, keepdim=True))
    return torch.stack((b1, b2, torch.linalg.cross(b1, b2)), dim=-1)


def from_quaternion(x: Tensor) -> Tensor:
    """The rotation v -> q v q^-1 of q = x/|x| = (w, i, j, k), for x (..., 4)."""
    w, i, j, k = unit(x).unbind(-1)
    rows = (
        (1 - 2 * (j * j + k * k), 2 * (i * j - k * w), 2 * (i * k + j * w)),
        (2 * (i * j + k * w), 1 - 2 * (i * i + k * k), 2 * (j * k - i * w)),
        (2 * (i * k - j * w), 2 * (j * k + i * w), 1 - 2 * (i * i + j * j)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def quaternion(y: Tensor) -> Tensor:
    """One of the two unit quaternions (w, i, j, k) of a rotation y (..., 3, 3); no derivative.

    4 q q^T is linear in y; q is its row with the largest diagonal entry, which is at least 1
    (Shepperd, J. Guidance and Control 1, 1978): no square root of a small difference.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in y.unbind(-2))
    rows = (
        (1 + a + e + i, h - f, c - g, d - b),
        (h - f, 1 + a - e - i, b + d, c + g),
        (c - g, b + d, 1 - a + e - i, f + h),
        (d - b, c + g, f + h, 1 - a - e + i),
    )
    four = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    best = torch.diagonal(four, dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    return unit(four.take_along_dim(best, dim=-2).squeeze(-2))
