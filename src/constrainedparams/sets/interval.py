"""Numbers between two bounds."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics.elementary import beyond, precise, rounded_beyond, with_value
from .constants import as_real, broadcasts
from .contract import Constraint, Shape

__all__ = ["Interval"]

# A hundredth of the width inside, the sigmoid has 4 % of its largest slope.
_MARGIN = 0.01


@dataclass(frozen=True, repr=False)
class Interval(Constraint):
    """The open interval (a, b), or the closed one [a, b], for every entry.

    Open: y = a + (b - a) sigmoid(x), evaluated as b tanh(x/2) when a = -b. Closed:
    y = (a + b)/2 + (b - a)/2 sin(x), which reaches the bounds and leaves them again (the lift
    "cubeslift" of Manopt; Levin, Kileel, Boumal, arXiv 2207.03512); the slope is 0 at the bounds.
    Values are kept inside by rounding inwards: y never equals an open bound, however large x is,
    in half precision too.

    Args:
        lower: a, a number or a tensor that broadcasts to the shape of y.
        upper: b > a, the same.
        closed: whether the bounds belong to the set.

    Shapes: any that the bounds broadcast to; x has the shape of y. Dtypes: real.

    ``project`` clips: to the bounds when closed (``right_inverse`` then starts off the bound by
    rounding), to a hundredth of the width inside when open. ``sample`` is uniform.

    Raises:
        OptionError: bounds that are not finite or not in order, or a bound that requires grad.

    Example:
        >>> import torch
        >>> from constrainedparams import Interval
        >>> Interval(-1.0, 1.0)(torch.zeros(2))
        tensor([0., 0.])
        >>> Interval(0.0, 1.0).contains(torch.tensor([0.5, 1.0]))
        tensor([ True, False])
    """

    lower: Any
    upper: Any
    closed: bool = False

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: not self.closed)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "(a + b)/2")

    def _check_options(self) -> None:
        a, b = self._bounds()
        pairs = zip(a.shape[::-1], b.shape[::-1], strict=False)
        if not all(n == m or 1 in (n, m) for n, m in pairs):
            raise OptionError(
                f"{self!r}: bounds of shapes {tuple(a.shape)} and {tuple(b.shape)}; expected "
                "shapes that broadcast. Reshape one of them."
            )
        if not bool((torch.isfinite(a) & torch.isfinite(b) & (a < b)).all()):
            raise OptionError(
                f"{self!r}: expected finite bounds with lower < upper. For one bound use a set "
                "with one, such as NonNegative()."
            )

    def _check(self, shape: Shape) -> str | None:
        if broadcasts(self.lower, shape) and broadcasts(self.upper, shape):
            return None
        return "expected one that the bounds broadcast to. Reshape the bounds."

    def _bounds(self, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return as_real(self.lower, like), as_real(self.upper, like)

    def _limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest number of this dtype in the set."""
        a, b = self._bounds(x)
        if self.closed:
            return a, b
        return beyond(a, 1), beyond(b, -1)

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        if y.dtype == dtype or self.closed:
            return y.to(dtype)
        a, b = self._bounds(y)
        # Rounding to fewer digits may cross either bound.
        return rounded_beyond(rounded_beyond(y, dtype, a, 1).to(y.dtype), dtype, b, -1)

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        a, b = self._bounds(x)
        half = 0.5 * (b - a)
        if self.closed:
            y = 0.5 * (a + b) + half * torch.sin(x)
        else:
            # tanh is exact around 0 = (a + b)/2, the sigmoid around a = 0.
            y = torch.where(a == -b, half * torch.tanh(0.5 * x), a + (b - a) * torch.sigmoid(x))
        low, high = self._limits(x)
        return with_value(y, torch.minimum(torch.maximum(y, low), high))

    def _right_inverse(self, y: Tensor) -> Tensor:
        wide = precise(y)
        a, b = self._bounds(wide)
        t = (2 * (wide - a) / (b - a) - 1).clamp(-1, 1)
        if self.closed:
            # At a bound the sine is flat and x would never leave: start where y is off by rounding.
            eps = torch.finfo(y.dtype).eps
            return torch.asin(t.clamp(eps - 1, 1 - eps))
        odds = torch.log(wide - a) - torch.log(b - wide)
        return torch.where(a == -b, 2 * torch.atanh(t), odds)

    def _residual(self, y: Tensor) -> Tensor:
        low, high = self._limits(y)
        return torch.maximum(low - y, y - high).clamp_min(0)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        # In half precision a closed bound may be crossed by rounding, and an open interval empty.
        if torch.finfo(dtype).bits > 16:
            return 0.0
        a, b = self._bounds()
        if not self.closed and bool((rounded_beyond(a, dtype, a, 1) < b).all()):
            return 0.0
        return max(float(v.abs().max()) for v in (a, b)) * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        low, high = self._limits(y)
        margin = 0.0 if self.closed else _MARGIN
        inner = margin * (high - low)
        y = torch.where(y < low, low + inner, y)
        return torch.where(y > high, high - inner, y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
        low, high = self._limits(like)
        return torch.minimum(torch.maximum(low + (high - low) * u, low), high)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return 1

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.closed:
            return super()._log_abs_det_jacobian(x)
        a, b = self._bounds(x)
        log_sigmoid = torch.nn.functional.logsigmoid
        return torch.log(b - a) + log_sigmoid(x) + log_sigmoid(-x)
