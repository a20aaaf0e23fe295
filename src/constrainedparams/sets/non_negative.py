"""Numbers that are zero or positive."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .contract import Constraint, Shape

__all__ = ["NonNegative"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class NonNegative(Constraint):
    """[0, infinity) for every entry: y = x^2.

    The square reaches 0 and leaves it again; every second-order critical point in x is a critical
    point in y (Levin, Kileel, Boumal, arXiv 2207.03512). Its slope is 0 at x = 0, so nothing starts
    there: ``right_inverse`` gives an exact 0 the root of the rounding unit, and
    ``project`` moves a negative entry to 0.001 (the nearest point, 0, is where the map is flat).

    Shapes: any; x has the shape of y. Dtypes: real. ``sample`` is half-normal.

    Example:
        >>> import torch
        >>> from constrainedparams import NonNegative
        >>> NonNegative()(torch.tensor([-2.0, 0.0, 3.0]))
        tensor([4., 0., 9.])
        >>> NonNegative().right_inverse(torch.tensor([4.0, 9.0]))
        tensor([2., 3.])
    """

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "0")

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x * x

    def _right_inverse(self, y: Tensor) -> Tensor:
        unit = torch.full_like(y, torch.finfo(y.dtype).eps)
        return torch.where(y > 0, y, unit).sqrt()

    def _residual(self, y: Tensor) -> Tensor:
        return (-y).clamp_min(0)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 0.0

    def _project(self, y: Tensor) -> Tensor:
        return torch.where(y < 0, torch.full_like(y, _MARGIN), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        draw = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        return draw.abs()

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return 1
