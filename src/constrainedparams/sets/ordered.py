"""Vectors in strict order."""

import math
from dataclasses import dataclass

from ..errors import OptionError
from .monotone import Monotone

__all__ = ["Ordered"]


@dataclass(frozen=True, repr=False)
class Ordered(Monotone):
    """Increasing vectors, y_1 < y_2 < ... < y_n: cut points, thresholds, knots.

    y_1 = x_1, y_i = y_(i-1) + min_gap + softplus(x_i) (Stan reference manual, ordered vector, with
    softplus for exp). Steps that are below the rounding of y would leave equal numbers; each is
    then the next one of the dtype, so the order is strict for every x, in half precision too (where
    a long vector may move by more than rounding, for want of numbers).

    Args:
        descending: y_1 > y_2 > ... instead; the steps go down.
        min_gap: the least step is above this; kept up to the rounding of y.
        dim: the axis of the vectors (:class:`VectorConstraint`).

    Shapes: any with n >= 1 numbers in each vector; x has the shape of y. Dtypes: real.
    ``project`` is the nearest vector with steps of at least 0.01 more than min_gap, for vectors
    that are off the set (isotonic regression); ``sample`` is the order statistics of n normal
    numbers, spread by min_gap. The residual is the largest shortfall of a step, relative to the two
    numbers it lies between.

    Raises:
        OptionError: a min_gap that is negative or not finite.
        ShapeError: vectors without entries, or an axis that the tensor does not have.

    Example:
        >>> import torch
        >>> from constrainedparams import Ordered
        >>> Ordered()(torch.tensor([-1.0, 0.0, 0.0]))
        tensor([-1.0000, -0.3069,  0.3863])
        >>> Ordered(descending=True).contains(torch.tensor([[3.0, 2.0], [2.0, 2.0]]))
        tensor([ True, False])
    """

    descending: bool = False
    min_gap: float = 0.0

    _sign = property(lambda self: -1 if self.descending else 1)
    _gap = property(lambda self: self.min_gap)

    @property
    def decay_target(self) -> str:
        step = f"(ln(2) + {self.min_gap:g})" if self.min_gap else "ln(2)"
        return f"y_i = {'-' if self.descending else ''}(i - 1) {step}"

    def _check_options(self) -> None:
        known = isinstance(self.min_gap, int | float) and math.isfinite(self.min_gap)
        if not known or self.min_gap < 0:
            raise OptionError(f"min_gap={self.min_gap!r}: expected a finite number, 0 or more.")
