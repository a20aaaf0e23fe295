"""Numbers above a bound."""

from dataclasses import dataclass
from typing import Any, ClassVar

from .half_line import HalfLine

__all__ = ["GreaterThan"]


@dataclass(frozen=True, repr=False)
class GreaterThan(HalfLine):
    """(lower, infinity) for every entry: y = lower + softplus(x), :class:`Positive` moved.

    Values that would round to the bound become the next number of the dtype, so y > lower for
    every x.

    Args:
        lower: a number or a tensor that broadcasts to the shape of y.

    Shapes: any that the bound broadcasts to; x has the shape of y. Dtypes: real.
    ``project`` moves entries that are not above the bound to 0.01 above it and no other; ``sample``
    is exponential with mean 1 above it; the residual is the distance.

    Raises:
        OptionError: a bound that is not finite or requires grad.

    Example:
        >>> import torch
        >>> from constrainedparams import GreaterThan
        >>> GreaterThan(2.0)(torch.tensor([-1000.0, 0.0])) > 2.0
        tensor([True, True])
        >>> GreaterThan(torch.tensor([0.0, 5.0])).contains(torch.tensor([1.0, 1.0]))
        tensor([ True, False])
    """

    lower: Any

    _sign: ClassVar[int] = 1
    _bound = property(lambda self: self.lower)
    decay_target = property(lambda self: "lower + ln(2)")
