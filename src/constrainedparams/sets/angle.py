"""Angles, in radians."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics.elementary import angle
from .contract import Constraint, Shape

__all__ = ["Angle"]


@dataclass(frozen=True, repr=False)
class Angle(Constraint):
    """The circle, every entry an angle in [-pi, pi]: y = x mod 2 pi.

    y = atan2(sin x, cos x) (Mardia, Jupp, Directional Statistics, 2000, section 2.2), with
    derivative 1 everywhere: an optimiser turns through pi without noticing, where y jumps from one
    end to the other. Both ends are the same angle, and what is made of y should depend on its sine
    and cosine only. (A point of the circle as two numbers: ``Sphere()``.)

    Shapes: any; x has the shape of y. Dtypes: real.
    ``right_inverse`` gives x = y, and ``retract`` brings x into [-pi, pi]; ``project`` is f: the
    same angle; ``sample`` is uniform; the residual is the distance from [-pi, pi].

    Example:
        >>> import torch
        >>> from constrainedparams import Angle
        >>> Angle()(torch.tensor([0.5, 4.0, 100.0]))
        tensor([ 0.5000, -2.2832, -0.5310])
    """

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: True)  # as a map to the circle
    decay_target = property(lambda self: "0")

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return angle(x)

    def _right_inverse(self, y: Tensor) -> Tensor:
        # pi in single precision is above pi: as x it would be an angle just above -pi.
        pi = y.new_full((), math.pi)
        last = torch.nextafter(pi, torch.zeros_like(pi))
        return torch.clamp(y, -last, last)

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return angle(x), state

    def _residual(self, y: Tensor) -> Tensor:
        return (y.abs() - torch.full_like(y, math.pi)).clamp_min(0)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return math.pi * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        return torch.where(self._residual(y) > 0, angle(y), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
        return math.pi * (2 * u - 1)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return 1
