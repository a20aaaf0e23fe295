"""Numbers above a bound."""

from dataclasses import dataclass
from typing import Any, ClassVar

from .half_line import HalfLine

__all__ = ["GreaterThan"]


@dataclass(frozen=True, repr=False)
class GreaterThan(HalfLine):
    """(lower, infinity) for every entry: y = lower + softplus(x), :class:`Positive` moved.

    Values that would round to the bound become the next number of the dtype, so y > lower for
    every x. Closed, [lower, infinity): y = lower + x^2, :class:`NonNegative` moved, which reaches
    the bound and leaves it again; its slope is 0 at the bound, x = 0, so nothing starts there.

    Args:
        lower: a number or a tensor that broadcasts to the shape of y.
        closed: whether the bound belongs to the set.

    Shapes: any that the bound broadcasts to; x has the shape of y. Dtypes: real.
    ``project`` moves entries that are off the set to 0.01 above the bound (closed: 0.001, as the
    nearest point is where the map is flat) and no other; ``right_inverse`` of a bound that belongs
    to the set is off it by rounding; ``sample`` is exponential with mean 1 above it; the residual
    is the distance.

    Raises:
        OptionError: a bound that is not finite or requires grad.

    Example:
        >>> import torch
        >>> from constrainedparams import GreaterThan
        >>> GreaterThan(2.0)(torch.tensor([-1000.0, 0.0])) > 2.0
        tensor([True, True])
        >>> GreaterThan(torch.tensor([0.0, 5.0])).contains(torch.tensor([1.0, 1.0]))
        tensor([ True, False])
        >>> GreaterThan(2.0, closed=True)(torch.tensor([-2.0, 0.0]))
        tensor([6., 2.])
    """

    lower: Any

    _sign: ClassVar[int] = 1
    _bound = property(lambda self: self.lower)
    decay_target = property(lambda self: "lower" if self.closed else "lower + ln(2)")
