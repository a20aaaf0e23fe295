"""Hyperbolic space in coordinates of the hyperboloid and of the ball, without a 0/0 anywhere."""

from typing import Any

import torch
from torch import Tensor

from .elementary import precise
from .vectors import length, unit

__all__ = ["height", "inside", "log_det_ball", "normal_directions", "to_ball"]


def height(x: Tensor, radius: float) -> Tensor:
    """(r^2 + |x|^2)^1/2, one number for each vector, keeping its axis.

    As the length of (x, r), which is smooth at x = 0 and does not overflow.
    """
    return length(torch.nn.functional.pad(x, (0, 1), value=radius)).unsqueeze(-1)


def to_ball(x: Tensor) -> Tensor:
    """x / (1 + (1 + |x|^2)^1/2), in the unit ball."""
    return x / (1 + height(x, 1.0))


def inside(y: Tensor, reach: float) -> Tensor:
    """y, made shorter where it is longer than ``reach``."""
    size = length(precise(y)).unsqueeze(-1)
    tiny = torch.finfo(size.dtype).tiny
    return (precise(y) * (reach / size.clamp_min(tiny)).clamp_max(1)).to(y.dtype)


def log_det_ball(x: Tensor) -> Tensor:
    """log |det| of :func:`to_ball`.

    With s = (1 + |x|^2)^1/2 the slope is 1/(1 + s) across x and 1/(s (1 + s)) along it.
    """
    s = height(x, 1.0).squeeze(-1)
    return -x.shape[-1] * torch.log1p(s) - s.log()


def normal_directions(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Direction and length of normally distributed tangent vectors at the origin."""
    made: Any = {"dtype": like.dtype, "device": like.device, "generator": generator}
    v = torch.randn(shape, **made)
    return unit(v), length(v).unsqueeze(-1)
