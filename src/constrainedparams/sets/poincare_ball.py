"""Points of the open ball: the Poincare model of hyperbolic space."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import hyperbolic as h
from ..numerics.elementary import precise, with_value
from ..numerics.vectors import length
from .contract import Shape
from .vector_constraint import VectorConstraint

__all__ = ["PoincareBall"]

_MARGIN = 0.01


@dataclass(frozen=True, repr=False)
class PoincareBall(VectorConstraint):
    """The open ball |y| < r, read as hyperbolic space of curvature -1/r^2.

    y = r x / (1 + (1 + |x|^2)^1/2): the point ((1 + |x|^2)^1/2, x) of the hyperboloid of
    :class:`Lorentz` seen from (-1, 0) (Nickel and Kiela, arXiv 1705.08039). Unlike
    tanh(|x|) x / |x| it has no 0/0 at the origin. Lengths are kept at least 4 rounding units
    below r.

    Args:
        radius: r > 0.
        dim: the axis of the vectors (:class:`VectorConstraint`).

    Shapes: any with at least 1 number in each vector; x has the shape of y. Dtypes: real.
    ``project`` shortens vectors that are off the set to 0.99 r. ``sample`` is the normal
    distribution of tangent vectors at the origin, brought to the ball along geodesics (Nagano et
    al., arXiv 1902.02992). The residual is how far |y| is above r, as a share of r, with two
    tolerances added because the bound is outside.

    Raises:
        OptionError: a radius that is not a positive number.
        ShapeError: vectors without entries.

    Example:
        >>> import torch
        >>> from constrainedparams import PoincareBall
        >>> PoincareBall()(torch.tensor([0.0, 0.75]))
        tensor([0.0000, 0.3333])
        >>> PoincareBall().contains(torch.tensor([[0.6, 0.0], [0.6, 0.8]]))
        tensor([ True, False])
    """

    radius: float = 1.0

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: True)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "0, the origin")

    def _check_options(self) -> None:
        if not (isinstance(self.radius, int | float) and 0 < self.radius < math.inf):
            raise OptionError(f"radius={self.radius!r}: expected a positive number, such as 1.0.")

    def _check(self, shape: Shape) -> str | None:
        if shape[-1] > 0:
            return None
        return "expected at least one number in each vector. Check dim=, or use a larger layer."

    def _reach(self, dtype: torch.dtype) -> float:
        return self.radius * (1 - 4 * torch.finfo(dtype).eps)

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y = self.radius * h.to_ball(x)
        return with_value(y, h.inside(y.detach(), self._reach(x.dtype)))

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        low = y.to(dtype)
        if low is y:
            return y
        shorter = h.inside(self._read(low.detach()), self._reach(dtype))
        return with_value(low, self._write(shorter, tuple(y.shape)))

    def _right_inverse(self, y: Tensor) -> Tensor:
        u = precise(y) / self.radius
        return 2 * u / (1 - u.square().sum(-1, keepdim=True))

    def _residual(self, y: Tensor) -> Tensor:
        beyond = length(precise(y)) / self.radius - 1
        outside = beyond.clamp_min(0) + 2 * self._tolerance(tuple(y.shape), y.dtype)
        return torch.where(beyond < 0, torch.zeros_like(beyond), outside).to(y.dtype)

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > 0
        return torch.where(off.unsqueeze(-1), h.inside(y, (1 - _MARGIN) * self.radius), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        direction, size = h.normal_directions(shape, like, generator)
        return h.inside(torch.tanh(0.5 * size) * direction * self.radius, self._reach(like.dtype))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return shape[-1]

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return h.log_det_ball(x) + x.shape[-1] * math.log(self.radius)
