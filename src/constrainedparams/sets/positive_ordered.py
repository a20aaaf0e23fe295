"""Vectors of positive numbers in strict order."""

from dataclasses import dataclass
from typing import ClassVar

from .monotone import Monotone

__all__ = ["PositiveOrdered"]


@dataclass(frozen=True, repr=False)
class PositiveOrdered(Monotone):
    """Increasing vectors of positive numbers, 0 < y_1 < y_2 < ... < y_n.

    y_1 = softplus(x_1), y_i = y_(i-1) + softplus(x_i) (Stan reference manual, positive ordered
    vector, with softplus for exp). The order is strict for every x, as in :class:`Ordered`.

    Args:
        dim: the axis of the vectors (:class:`VectorConstraint`).

    Shapes: any with n >= 1 numbers in each vector; x has the shape of y. Dtypes: real.
    ``project`` is the nearest vector with steps of at least 0.01, raised to multiples of 0.01,
    for vectors that are off the set; ``sample`` is the order statistics of n half-normal numbers;
    the residual is that of :class:`Ordered`, or the distance of an entry from 0.

    Raises:
        ShapeError: vectors without entries, or an axis that the tensor does not have.

    Example:
        >>> import torch
        >>> from constrainedparams import PositiveOrdered
        >>> PositiveOrdered()(torch.tensor([0.0, 0.0, -1000.0])).diff() > 0
        tensor([True, True])
    """

    _positive: ClassVar[bool] = True
    decay_target = property(lambda self: "y_i = i ln(2)")
