"""Numbers below a bound."""

from dataclasses import dataclass
from typing import Any, ClassVar

from .half_line import HalfLine

__all__ = ["LessThan"]


@dataclass(frozen=True, repr=False)
class LessThan(HalfLine):
    """(-infinity, upper) for every entry: y = upper - softplus(-x), :class:`Positive` mirrored.

    y grows with x. Values that would round to the bound become the number of the dtype before it,
    so y < upper for every x.

    Args:
        upper: a number or a tensor that broadcasts to the shape of y.

    Shapes: any that the bound broadcasts to; x has the shape of y. Dtypes: real.
    ``project`` moves entries that are not below the bound to 0.01 below it and no other; ``sample``
    is exponential with mean 1 below it; the residual is the distance.

    Raises:
        OptionError: a bound that is not finite or requires grad.

    Example:
        >>> import torch
        >>> from constrainedparams import LessThan
        >>> LessThan(0.0)(torch.tensor([-3.0, 1000.0])) < 0.0
        tensor([True, True])
    """

    upper: Any

    _sign: ClassVar[int] = -1
    _bound = property(lambda self: self.upper)
    decay_target = property(lambda self: "upper - ln(2)")
