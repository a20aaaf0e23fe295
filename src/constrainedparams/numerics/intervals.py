"""Maps of the line to an interval, and back: both ends reached, none, or one."""

import torch
from torch import Tensor

from .elementary import precise

__all__ = ["inverse", "onto"]

Ends = tuple[bool, bool]  # whether a, b belong to the interval


def onto(x: Tensor, a: Tensor, b: Tensor, ends: Ends) -> Tensor:
    """y from a to b. Its odds (y - a)/(b - y) are, with t = (x + pi/2)/2,

    exp(x) on (a, b), x^2 on [a, b), x^-2 on (a, b], tan(t)^2 on [a, b]. Halves are taken first:
    b - a may be beyond the largest number.
    """
    half = 0.5 * b - 0.5 * a
    if ends == (True, True):
        return (0.5 * a + 0.5 * b) + half * torch.sin(x)
    if ends == (False, False):
        # tanh is exact around 0 = (a + b)/2, the sigmoid around a = 0.
        return torch.where(a == -b, half * torch.tanh(0.5 * x), _between(a, half, torch.sigmoid(x)))
    first, half = (a, half) if ends[0] else (b, -half)
    # sin(arctan x)^2 = x^2 / (1 + x^2); the square of a large x would overflow.
    return _between(first, half, torch.sin(torch.atan(x)).square())


def _between(first: Tensor, half: Tensor, share: Tensor) -> Tensor:
    """first + 2 half share, in two halves."""
    part = half * share
    return (first + part) + part


def inverse(y: Tensor, a: Tensor, b: Tensor, ends: Ends) -> Tensor:
    """An x with onto(x, a, b, ends) = y to the rounding of y's dtype.

    At an end that belongs to the interval the map is flat and x would never leave: of such a y the
    x is given that is off it by rounding.
    """
    eps, wide = torch.finfo(y.dtype).eps, precise(y)
    below, above = 0.5 * wide - 0.5 * a, 0.5 * b - 0.5 * wide
    position = ((below - above) / (below + above)).clamp(-1, 1)
    if ends == (True, True):
        return torch.asin(position.clamp(eps - 1, 1 - eps))
    if ends == (False, False):
        odds = torch.log(below / above)
        return torch.where(a == -b, 2 * torch.atanh(position), odds)
    first, near, far = (a, below, above) if ends[0] else (b, above, below)
    off = 2 * near > eps * first.abs()
    return torch.where(off, near / far, eps).sqrt()
