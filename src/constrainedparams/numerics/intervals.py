"""Maps of the line to an interval, and back: both ends reached, none, or one."""

import torch
from torch import Tensor

from .elementary import precise

__all__ = ["inverse", "onto"]

Ends = tuple[bool, bool]  # whether a, b belong to the interval


def onto(x: Tensor, a: Tensor, b: Tensor, ends: Ends) -> Tensor:
    """y from a to b. Its odds (y - a)/(b - y) are, with t = (x + pi/2)/2,

    exp(x) on (a, b), x^2 on [a, b), x^-2 on (a, b], tan(t)^2 on [a, b].
    """
    if ends == (True, True):
        return 0.5 * (a + b) + 0.5 * (b - a) * torch.sin(x)
    if ends == (False, False):
        # tanh is exact around 0 = (a + b)/2, the sigmoid around a = 0.
        centred = 0.5 * (b - a) * torch.tanh(0.5 * x)
        return torch.where(a == -b, centred, a + (b - a) * torch.sigmoid(x))
    first, last = (a, b) if ends[0] else (b, a)
    # sin(arctan x)^2 = x^2 / (1 + x^2); the square of a large x would overflow.
    return first + (last - first) * torch.sin(torch.atan(x)).square()


def inverse(y: Tensor, a: Tensor, b: Tensor, ends: Ends) -> Tensor:
    """An x with onto(x, a, b, ends) = y to the rounding of y's dtype.

    At an end that belongs to the interval the map is flat and x would never leave: of such a y the
    x is given that is off it by rounding.
    """
    eps, wide = torch.finfo(y.dtype).eps, precise(y)
    position = (2 * (wide - a) / (b - a) - 1).clamp(-1, 1)
    if ends == (True, True):
        return torch.asin(position.clamp(eps - 1, 1 - eps))
    if ends == (False, False):
        odds = torch.log(wide - a) - torch.log(b - wide)
        return torch.where(a == -b, 2 * torch.atanh(position), odds)
    first, last = (a, b) if ends[0] else (b, a)
    off = (wide - first).abs() > eps * first.abs()
    return torch.where(off, (wide - first) / (last - wide), eps).sqrt()
