"""Sequences along the last axis: increasing ones, also in floating point, and the nearest ones."""

import torch
from torch import Tensor

from .elementary import inverse_softplus, least, precise, softplus, with_value

__all__ = ["convex", "convex_inverse", "increasing", "increasing_inverse", "isotonic", "separated"]

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def increasing(x: Tensor, gap: float = 0.0) -> Tensor:
    """y_1 = x_1, y_i = y_(i-1) + gap + softplus(x_i)."""
    return torch.cat((x[..., :1], gap + softplus(x[..., 1:])), dim=-1).cumsum(-1)


def increasing_inverse(y: Tensor, gap: float = 0.0) -> Tensor:
    """The x with increasing(x, gap) = y, in double precision.

    Where rounding has left a step at a gap or below it, the nearest sequence is taken whose steps
    are all longer: to lengthen each step by itself would add up.
    """
    wide = precise(y)
    if gap and bool((wide.diff(dim=-1) <= gap).any()):
        unit = torch.finfo(y.dtype).eps / y.shape[-1]
        wide = isotonic(wide, gap + unit * wide.abs().amax(-1))
    steps = (wide.diff(dim=-1) - gap).clamp_min(torch.finfo(wide.dtype).tiny)
    return torch.cat((wide[..., :1], inverse_softplus(steps)), dim=-1)


def convex(x: Tensor) -> Tensor:
    """y_1 = x_1, y_2 = x_1 + x_2, y_i = 2 y_(i-1) - y_(i-2) + softplus(x_i)."""
    slopes = increasing(x[..., 1:]) if x.shape[-1] > 1 else x[..., 1:]
    return torch.cat((x[..., :1], slopes), dim=-1).cumsum(-1)


def convex_inverse(y: Tensor) -> Tensor:
    """The x with convex(x) = y, in double precision; rounding as in :func:`increasing_inverse`."""
    wide = precise(y)
    slopes = wide.diff(dim=-1)
    if bool((slopes.diff(dim=-1) <= 0).any()):
        # A bend moves all values that follow, by up to n^2 of it.
        unit = torch.finfo(y.dtype).eps / y.shape[-1] ** 2
        slopes = isotonic(slopes, unit * wide.abs().amax(-1))
    bends = slopes.diff(dim=-1).clamp_min(torch.finfo(wide.dtype).tiny)
    return torch.cat((wide[..., :1], slopes[..., :1], inverse_softplus(bends)), dim=-1)


def separated(y: Tensor) -> Tensor:
    """``y`` with entries that are not above the one before moved to the next number of the dtype.

    Sums of steps that are below the rounding of y are equal numbers: in single precision 1e4 +
    softplus(-9) is 1e4. Floating-point numbers in order are integers in order once their bits are
    read so (sign and magnitude), and a_i >= a_(i-1) + 1 is that a_i - i does not decrease.
    Numbers below ``least`` count as 0.
    """
    value = y.detach()
    bits = _BITS[y.element_size()]
    low = torch.iinfo(bits).min
    first = value.new_full((), least(y.dtype)).view(bits).to(torch.int64) - 1
    raw = value.contiguous().view(bits).to(torch.int64)
    magnitude = (torch.where(raw < 0, raw - low, raw) - first).clamp_min(0)
    order = torch.where(raw < 0, -magnitude, magnitude)
    place = torch.arange(y.shape[-1], device=y.device)
    order = torch.cummax(order - place, dim=-1).values + place
    magnitude = torch.where(order == 0, order, order.abs() + first)
    raw = torch.where(order < 0, magnitude + low, magnitude)
    return with_value(y, raw.to(bits).view(y.dtype))


def isotonic(y: Tensor, gap: Tensor) -> Tensor:
    """The nearest sequence with steps of at least ``gap`` (one for each sequence), in double.

    Pool adjacent violators (Ayer et al., Ann. Math. Statist. 26, 1955) of y_i - i gap.
    """
    ramp = torch.arange(y.shape[-1], dtype=torch.float64, device=y.device) * precise(gap)[..., None]
    flat = precise(y) - ramp
    rows = [_pooled(row) for row in flat.reshape(-1, y.shape[-1]).tolist()]
    found = torch.tensor(rows, dtype=flat.dtype, device=y.device).reshape(y.shape)
    return found + ramp


def _pooled(row: list[float]) -> list[float]:
    blocks: list[tuple[float, int]] = []
    for value in row:
        mean, count = value, 1
        while blocks and blocks[-1][0] >= mean:
            other, more = blocks.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        blocks.append((mean, count))
    return [mean for mean, count in blocks for _ in range(count)]
