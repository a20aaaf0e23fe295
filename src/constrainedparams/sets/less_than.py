"""Numbers below a bound."""

from dataclasses import dataclass
from typing import Any, ClassVar

from .half_line import HalfLine

__all__ = ["LessThan"]


@dataclass(frozen=True, repr=False)
class LessThan(HalfLine):
    """(-infinity, upper) for every entry: y = upper - softplus(-x), :class:`Positive` mirrored.

    y grows with x. Values that would round to the bound become the number of the dtype before it,
    so y < upper for every x. Closed, (-infinity, upper]: y = upper - x^2, which reaches the bound
    and leaves it again; its slope is 0 at the bound, x = 0, so nothing starts there.

    Args:
        upper: a number or a tensor that broadcasts to the shape of y.
        closed: whether the bound belongs to the set.

    Shapes: any that the bound broadcasts to; x has the shape of y. Dtypes: real.
    ``project`` moves entries that are off the set to 0.01 below the bound (closed: 0.001, as the
    nearest point is where the map is flat) and no other; ``right_inverse`` of a bound that belongs
    to the set is off it by rounding; ``sample`` is exponential with mean 1 below it; the residual
    is the distance.

    Raises:
        OptionError: a bound that is not finite or requires grad.

    Example:
        >>> import torch
        >>> from constrainedparams import LessThan
        >>> LessThan(0.0)(torch.tensor([-3.0, 1000.0])) < 0.0
        tensor([True, True])
        >>> LessThan(0.0, closed=True).contains(torch.tensor([0.0, 1.0]))
        tensor([ True, False])
    """

    upper: Any

    _sign: ClassVar[int] = -1
    _bound = property(lambda self: self.upper)
    decay_target = property(lambda self: "upper" if self.closed else "upper - ln(2)")
