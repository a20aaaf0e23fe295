"""Triangular factors of invertible matrices; how far a matrix is from a singular one, and back."""

from typing import Any

import torch
from torch import Tensor

from .definite import factor, factor_inverse
from .elementary import determinant_sign, precise

__all__ = [
    "away_from_singular",
    "clip_singular_values",
    "separation",
    "upper",
    "upper_inverse",
]


def _floor(dtype: torch.dtype) -> float:
    """Smallest diagonal entry of R: the rounding errors of Q R are normal numbers too."""
    info = torch.finfo(dtype)
    return info.tiny / info.eps


def upper(x: Tensor) -> Tensor:
    """R = triu(x, 1) + diag(softplus(Re diag x)), invertible for every x."""
    return factor(x.mH, _floor(x.dtype)).mH


def upper_inverse(r: Tensor, dtype: torch.dtype) -> Tensor:
    """The x with upper(x) = R in ``dtype``; strictly upper entries are those of R."""
    return factor_inverse(r.mH, dtype, _floor(dtype)).mH


def _unit_columns(y: Tensor) -> tuple[Tensor, Tensor]:
    """y D^-1 and diag(D), D = diag of the norms of the columns; a column of zeros stays."""
    tiny = torch.finfo(y.dtype).tiny
    # By way of the largest entry: the squares in a norm underflow and overflow.
    peak = torch.linalg.vector_norm(y, ord=torch.inf, dim=-2, keepdim=True).clamp_min(tiny)
    scaled = y / peak
    norm = torch.linalg.vector_norm(scaled, dim=-2, keepdim=True).clamp_min(tiny)
    return scaled / norm, peak * norm


def separation(y: Tensor) -> Tensor:
    """Smallest singular value of y with its columns scaled to length 1, in double precision.

    In [0, 1], and 0 for singular y only. Scaling columns makes it independent of their units; up to
    n^1/2 no other scaling of columns makes it larger (van der Sluis 1969).
    """
    wide = precise(y)
    if y.shape[-1] == 0:
        return wide.real.new_ones(y.shape[:-2])
    return torch.linalg.svdvals(_unit_columns(wide)[0])[..., -1]


# An operator, because what it costs depends on values: the SVD is for the few that need it.
@torch.library.custom_op("constrainedparams::away_from_singular", mutates_args=())
def _away(r: Tensor, slack: float) -> Tensor:
    unit, norm = _unit_columns(precise(r))
    identity = torch.eye(r.shape[-1], dtype=unit.dtype, device=r.device).expand(unit.shape)
    inverse = torch.linalg.solve_triangular(unit, identity, upper=True)
    near = ~(slack * torch.linalg.matrix_norm(inverse) <= 1)  # also where the inverse overflows
    if not bool(near.any()):
        return r.clone()
    moved = (clip_singular_values(unit, slack, None if r.is_complex() else 1) * norm).to(r.dtype)
    return torch.where(near[..., None, None], moved, r)


@_away.register_fake
def _(r: Tensor, slack: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(r)


@_away.register_vmap
def _(info: Any, in_dims: tuple[int | None, None], r: Tensor, slack: float) -> tuple[Tensor, int]:  # noqa: ARG001
    assert in_dims[0] is not None
    return _away(r.movedim(in_dims[0], 0), slack), 0


def away_from_singular(r: Tensor, slack: float) -> Tensor:
    """``r``, and where its separation is below ``slack`` a matrix near it that has at least that.

    Args:
        r: (..., n, n), upper triangular with positive diagonal.
        slack: a few rounding units; the columns move by at most 2 slack n^1/2 of their length.

    Returns:
        (..., n, n), not triangular where it was moved; the determinant (of a real r) is positive.
    """
    return _away(r, slack) if r.shape[-1] else r


def clip_singular_values(y: Tensor, margin: float, sign: int | None) -> Tensor:
    """y with singular values of at least ``margin`` times the largest (times 1 for y = 0).

    With a sign, the determinant gets it by way of the smallest singular value.
    """
    u, s, vh = torch.linalg.svd(precise(y), full_matrices=False)
    largest = s[..., :1]
    least = margin * torch.where(largest > 0, largest, torch.ones_like(largest))
    s = torch.maximum(s, least)
    if sign is not None:
        turned = sign * determinant_sign(u) * determinant_sign(vh) < 0
        smallest = torch.where(turned.unsqueeze(-1), -least, s[..., -1:])
        s = torch.cat((s[..., :-1], smallest), dim=-1)
    return ((u * s.unsqueeze(-2)) @ vh).to(y.dtype)
