"""Maps onto balls of the norms 1, 2 and infinity, vectors along the last axis."""

import math

import torch
from torch import Tensor

from .elementary import precise
from .vectors import length, nearest_in_simplex, unit

__all__ = ["closed", "closed_inverse", "nearest", "norm", "opened", "opened_inverse", "stretch"]

INF = math.inf


def norm(y: Tensor, p: float) -> Tensor:
    """|y|_p in double precision, one number for each vector."""
    wide = precise(y)
    if p == 2:
        return length(wide)
    return wide.abs().sum(-1) if p == 1 else wide.abs().amax(-1)


def opened(x: Tensor, p: float) -> Tensor:
    """x / (1 + |x|_p^p)^(1/p) for p = 1, 2 and tanh(x) for p = infinity: onto |y|_p < 1."""
    if p == INF:
        return torch.tanh(x)
    if p == 1:
        return x / (1 + x.abs().sum(-1, keepdim=True))
    return unit(torch.cat((torch.ones_like(x[..., :1]), x), dim=-1))[..., 1:]


def opened_inverse(y: Tensor, p: float) -> Tensor:
    """The x with opened(x, p) = y, for |y|_p < 1, in double precision."""
    wide, size = precise(y), norm(y, p).unsqueeze(-1)
    if p == INF:
        return torch.atanh(wide)
    return wide / (1 - size if p == 1 else ((1 - size) * (1 + size)).sqrt())


def stretch(x: Tensor, p: float) -> Tensor:
    """log |det| of the derivative of ``opened`` (of its real form, for complex x).

    p = 1, 2: the eigenvalues are N^-1 on the tangents of the sphere of norm p and N^-(1 + p) across
    it, N = (1 + |x|_p^p)^(1/p).
    """
    n = x.shape[-1] * (2 if x.is_complex() else 1)
    if p == INF:
        far = x.abs()
        return 2 * (math.log(2.0) - far - torch.log1p(torch.exp(-2 * far))).sum(-1)
    if p == 1:
        return -(n + 1) * torch.log1p(x.abs().sum(-1))
    squares = (x * x.conj()).real.sum(-1)
    return -(0.5 * n + 1) * torch.log1p(squares)


def closed(slack: Tensor, parts: tuple[Tensor, ...], p: float) -> Tensor:
    """A map onto |y|_p <= 1.

    p = infinity: sin of the part. p = 2: the part of the unit vector (slack, part), the lift of the
    ball to a sphere. p = 1: (u^2 - v^2) / (slack^2 + |u|^2 + |v|^2) of the parts u and v: u^2, v^2
    and slack^2 are a probability vector, u^2 - v^2 its positive minus its negative half.
    """
    if p == INF:
        return torch.sin(parts[0])
    start = torch.zeros_like(torch.cat((slack, *parts), dim=-1))
    start[..., :1] += 1
    if p == 1:
        squares = unit(torch.cat((slack, *parts), dim=-1)).square()
        n = parts[0].shape[-1]
        return squares[..., 1 : n + 1] - squares[..., n + 1 :]
    return unit(torch.cat((slack, *parts), dim=-1), start)[..., 1:]


def closed_inverse(y: Tensor, p: float) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Slack and parts with closed(slack, parts, p) = y to rounding.

    On the boundary the maps are flat: what is missing to it is taken to be a rounding unit at
    least. For p = 1 it is shared by all squares, so that no entry of y that is 0 is stuck there.
    """
    wide, eps = precise(y), torch.finfo(y.dtype).eps
    size = norm(y, p).unsqueeze(-1)
    none = torch.zeros_like(wide.real[..., :1])
    if p == INF:
        return none, (torch.asin(wide.clamp(eps - 1, 1 - eps)),)
    if p == 2:
        return ((1 - size) * (1 + size)).clamp_min(eps).sqrt().to(wide.dtype), (wide,)
    share = (1 - size).clamp_min(eps) / (2 * y.shape[-1] + 1)
    squares = (none + share, wide.clamp_min(0) + share, (-wide).clamp_min(0) + share)
    slack, u, v = (part.sqrt() for part in squares)
    return slack, (u, v)


def nearest(y: Tensor, radius: float, p: float) -> Tensor:
    """The nearest point with |y|_p <= radius, in the Euclidean norm, in double precision.

    p = 1: |y| moves to the nearest point of a simplex (Duchi et al., ICML 2008).
    """
    wide = precise(y)
    if p == INF:
        return wide.clamp(-radius, radius)
    size = norm(y, p).unsqueeze(-1)
    over = size > radius
    if p == 2:
        return torch.where(over, unit(wide) * radius, wide)
    moved = radius * nearest_in_simplex(wide.abs() / radius) * wide.sign()
    return torch.where(over, moved, wide)
