"""Triangular factors of invertible matrices; how far a matrix is from a singular one, and back."""

import math

import torch
from torch import Tensor

from .definite import factor, factor_inverse
from .elementary import determinant_sign, inverse_softplus, precise, real_diagonal, softplus
from .operation import like_the_first, opaque

__all__ = [
    "away_from_singular",
    "clip_singular_values",
    "distance_from_determinant_one",
    "separation",
    "upper",
    "upper_inverse",
    "upper_of_determinant_one",
    "upper_of_determinant_one_inverse",
    "with_positive_determinant",
    "without_trace",
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


def _moved(r: Tensor, slack: float) -> Tensor:
    unit, norm = _unit_columns(precise(r))
    identity = torch.eye(r.shape[-1], dtype=unit.dtype, device=r.device).expand(unit.shape)
    inverse = torch.linalg.solve_triangular(unit, identity, upper=True)
    near = ~(slack * torch.linalg.matrix_norm(inverse) <= 1)  # also where the inverse overflows
    if not bool(near.any()):
        return r.clone()
    moved = (clip_singular_values(unit, slack, None if r.is_complex() else 1) * norm).to(r.dtype)
    return torch.where(near[..., None, None], moved, r)


# Opaque, because what it costs depends on values: the SVD is for the few that need it.
_away = opaque("away_from_singular", "(Tensor r, float slack) -> Tensor", _moved, like_the_first)


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


# Diagonals with product 1 are ratios, which a floor of their numerators does not restrict.
_LEAST = 0.01


def upper_of_determinant_one(x: Tensor) -> Tensor:
    """R = triu(x, 1) + diag(s / geometric mean of s), s = softplus(Re diag x) + 0.01."""
    s = softplus(real_diagonal(x)) + _LEAST
    return x.triu(1) + torch.diag_embed(s * torch.exp(-s.log().mean(-1, keepdim=True)))


def upper_of_determinant_one_inverse(r: Tensor) -> Tensor:
    """The x with upper_of_determinant_one(x) = R, 0 where the diagonal of R is smallest."""
    diagonal = real_diagonal(r)
    s = (math.log(2.0) + _LEAST) * (diagonal / diagonal.amin(-1, keepdim=True))
    return r.triu(1) + torch.diag_embed(inverse_softplus(s - _LEAST))


def without_trace(x: Tensor) -> Tensor:
    """x with imaginary parts of mean 0 on the diagonal: its skew-Hermitian part has no trace."""
    if not x.is_complex():
        return x
    mean = torch.diagonal(x, dim1=-2, dim2=-1).imag.mean(-1)[..., None, None]
    return x - 1j * mean * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def _last_singular_value(u: Tensor, s: Tensor, vh: Tensor) -> tuple[Tensor, Tensor]:
    """Sign or phase of the determinant, and what in place of the last one makes its size 1."""
    phase = torch.linalg.slogdet(u)[0] * torch.linalg.slogdet(vh)[0]
    return phase, torch.exp(-s[..., :-1].log().sum(-1))


def distance_from_determinant_one(y: Tensor) -> Tensor:
    """A share of |y|_F by which it can change to have determinant 1, the least for small ones.

    By its smallest singular value alone, which costs least, or by all of them together.
    """
    u, s, vh = torch.linalg.svd(precise(y))
    phase, wanted = _last_singular_value(u, s, vh)
    size = torch.linalg.vector_norm(s, dim=-1)
    alone = (wanted - phase * s[..., -1]).abs() / size
    together = (torch.exp(-s.log().mean(-1)) - phase).abs()
    return torch.minimum(alone.nan_to_num(torch.inf), together.nan_to_num(torch.inf)).clamp_max(1e6)


def with_positive_determinant(y: Tensor) -> Tensor:
    """Real y in double precision; where its determinant is not above 0, which in a member of the
    set is rounding, the smallest singular value is that with which it is 1.
    """
    wide = precise(y)
    u, s, vh = torch.linalg.svd(wide)
    phase, wanted = _last_singular_value(u, s, vh)
    last = (wanted * phase).unsqueeze(-1)
    moved = (u * torch.cat((s[..., :-1], last), dim=-1).unsqueeze(-2)) @ vh
    return torch.where((phase * s[..., -1] <= 0)[..., None, None], moved, wide)
