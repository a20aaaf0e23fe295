"""Vectors along the last axis: length, direction, and the nearest point of the simplex."""

import torch
from torch import Tensor

from .elementary import precise

__all__ = ["length", "nearest_in_simplex", "relative_distance", "sine_of_length", "softmax", "unit"]


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """x divided by its largest modulus, and that modulus: no square over- or underflows.

    The modulus is a constant. It is 0 where all entries are below the smallest normal number,
    whose inverse would overflow; x is not divided there.
    """
    size = torch.linalg.vector_norm(x.detach(), torch.inf, dim=-1, keepdim=True)
    size = torch.where(size < torch.finfo(x.dtype).tiny, torch.zeros_like(size), size)
    return x / torch.where(size == 0, torch.ones_like(size), size), size


def _norm(z: Tensor) -> Tensor:
    """|z| of scaled vectors. ``vector_norm`` adds up in float32: 8e-6 off for 10^6 numbers."""
    squares = z.real.square() + z.imag.square() if z.is_complex() else z.square()
    return squares.sum(-1, keepdim=True).sqrt()


def unit(x: Tensor, start: Tensor | float = 1.0) -> Tensor:
    """x/|x|, and s/|s| where x = 0, with the derivative of (s + x)/|s + x| there; s = ``start``.

    The scale may be a constant although it depends on x: y does not depend on it.
    """
    z, size = _scaled(x)
    z = torch.where(size == 0, z + start, z)
    return z / _norm(z)


def sine_of_length(x: Tensor) -> Tensor:
    """sin(|x|) x / |x|, smooth at 0 too: onto the closed unit ball, with x itself near 0."""
    squares = x.real.square() + x.imag.square() if x.is_complex() else x.square()
    square = squares.sum(-1, keepdim=True)
    # Below, the next term of the series, square^4 / 9!, and its second derivative round away.
    small = square < 1e-3
    t = torch.where(small, torch.ones_like(square), square).sqrt()
    s = torch.where(small, square, torch.zeros_like(square))
    series = 1 + s * (-1 / 6 + s * (1 / 120 - s * (1 / 5040 - s / 362880)))
    return x * torch.where(small, series, torch.sin(t) / t)


def length(x: Tensor) -> Tensor:
    """|x|, one number for each vector."""
    if x.shape[-1] == 0:
        return x.real.sum(-1)
    z, size = _scaled(x)
    return (size * _norm(z)).squeeze(-1)


def relative_distance(y: Tensor, nearest: Tensor, axes: int = 2) -> Tensor:
    """|y - nearest| over the larger of |y| and |nearest|, 0 where both are 0.

    Euclidean norms over the last ``axes`` axes.
    """
    size = torch.maximum(length(y.flatten(-axes)), length(nearest.flatten(-axes)))
    gap = length((y - nearest).flatten(-axes))
    return torch.where(size == 0, torch.zeros_like(size), gap / size)


def softmax(x: Tensor) -> Tensor:
    """exp(x_i) / sum_j exp(x_j). Torch's own adds up in float32: 1e-6 off for 10^6 numbers."""
    z = torch.exp(x - x.detach().amax(-1, keepdim=True))
    return z / z.sum(-1, keepdim=True)


def nearest_in_simplex(y: Tensor, low: Tensor | float = 0.0) -> Tensor:
    """The nearest point with sum 1 and all entries at least ``low`` (in the Euclidean norm).

    Entries of minus infinity stay out: they come back as 0.

    max(y - t, low) with the threshold t found by sorting (Held, Wolfe, Crowder, Math. Programming
    6, 1974). Entries are taken relative to the largest one: only those less than 1 below it count.
    """
    wide = precise(y)
    wide = wide - wide.amax(-1, keepdim=True)
    low = torch.where(wide > -torch.inf, low, 0.0).to(wide.dtype)
    rest = 1 - low.sum(-1, keepdim=True)
    ordered = wide.sort(-1, descending=True).values
    count = torch.arange(1, y.shape[-1] + 1, dtype=wide.dtype, device=y.device)
    thresholds = (ordered.cumsum(-1) - rest) / count
    last = (ordered > thresholds).sum(-1, keepdim=True) - 1
    free = (wide - thresholds.gather(-1, last)).clamp_min(0)
    return low + rest * free / free.sum(-1, keepdim=True)
