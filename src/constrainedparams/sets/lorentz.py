"""Points of the hyperboloid: the Lorentz model of hyperbolic space."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import hyperbolic as h
from ..numerics.elementary import precise
from .contract import Shape
from .vector_constraint import VectorConstraint

__all__ = ["Lorentz"]


@dataclass(frozen=True, repr=False)
class Lorentz(VectorConstraint):
    """The upper sheet of the hyperboloid: -y_0^2 + y_1^2 + ... + y_n^2 = -r^2 with y_0 > 0.

    y = ((r^2 + |z|^2)^1/2, z) with z = (x_1, ..., x_n); x_0 is not read. It is hyperbolic space of
    curvature -1/r^2 (Nickel and Kiela, arXiv 1806.03417), and :class:`PoincareBall` of the same
    radius another picture of it.

    Args:
        radius: r > 0.
        dim: the axis of the vectors (:class:`VectorConstraint`).

    Shapes: any with vectors of at least 2 numbers, y_0 first; x has the shape of y. Dtypes: real.
    The residual is the error of y_0 as a share of it: far out y_0 is rounded to that. ``project``
    keeps all but y_0. ``sample`` is the normal distribution of tangent vectors at the origin,
    brought to the hyperboloid along geodesics (Nagano et al., arXiv 1902.02992).

    Raises:
        OptionError: a radius that is not a positive number.
        ShapeError: vectors with fewer than 2 numbers.

    Example:
        >>> import torch
        >>> from constrainedparams import Lorentz
        >>> Lorentz()(torch.tensor([0.0, 3.0, 4.0]))
        tensor([5.0990, 3.0000, 4.0000])
        >>> Lorentz().contains(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 1.0]]))
        tensor([ True, False, False])
    """

    radius: float = 1.0

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: True)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "(r, 0, ..., 0), the origin of the hyperboloid")

    def _check_options(self) -> None:
        if not (isinstance(self.radius, int | float) and 0 < self.radius < math.inf):
            raise OptionError(f"radius={self.radius!r}: expected a positive number, such as 1.0.")

    def _check(self, shape: Shape) -> str | None:
        if shape[-1] > 1:
            return None
        return "expected at least two numbers in each vector. Check dim=, or use a larger layer."

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        z = x[..., 1:]
        return torch.cat((h.height(z, self.radius), z), dim=-1)

    def _right_inverse(self, y: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(y[..., :1]), y[..., 1:]), dim=-1)

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._right_inverse(x), state

    def _residual(self, y: Tensor) -> Tensor:
        wide = precise(y)
        expected = h.height(wide[..., 1:], self.radius).squeeze(-1)
        return ((wide[..., 0] - expected).abs() / expected).to(y.dtype)

    def _project(self, y: Tensor) -> Tensor:
        return self._forward(y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        direction, size = h.normal_directions((*shape[:-1], shape[-1] - 1), like, generator)
        return torch.cat((size.cosh(), size.sinh() * direction), dim=-1) * self.radius

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return shape[-1] - 1
