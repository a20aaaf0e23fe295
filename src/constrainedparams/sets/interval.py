"""Numbers between two bounds."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import intervals
from ..numerics.elementary import beyond, precise, rounded_beyond, shortened, with_value
from .constants import as_real, broadcasts
from .contract import Constraint, Shape

__all__ = ["Interval"]

# A hundredth of the width inside, the sigmoid has 4 % of its largest slope.
_MARGIN = 0.01


@dataclass(frozen=True, repr=False)
class Interval(Constraint):
    """The open interval (a, b), the closed one [a, b], or a half-open one, for every entry.

    Open: y = a + (b - a) sigmoid(x), evaluated as b tanh(x/2) when a = -b. Closed:
    y = (a + b)/2 + (b - a)/2 sin(x), which reaches the bounds and leaves them again (the lift
    "cubeslift" of Manopt; Levin, Kileel, Boumal, arXiv 2207.03512). Half-open:
    y = a + (b - a) x^2/(1 + x^2), mirrored for (a, b]: the odds of the position are x^2, where
    those of the open interval are exp(x). The slope is 0 at a bound that is reached (sin(x) = +-1,
    and x = 0 when half-open): nothing starts there. Values are kept inside by rounding inwards: y
    never equals an open bound, however large x is, in half precision too.

    Args:
        lower: a, a number or a tensor that broadcasts to the shape of y.
        upper: b > a, the same.
        closed: whether the bounds belong to the set: both (True), none (False), or one of them,
            ``"left"`` for [a, b), ``"right"`` for (a, b].

    Shapes: any that the bounds broadcast to; x has the shape of y. Dtypes: real.

    ``project`` clips: to a bound that belongs to the set (``right_inverse`` then starts off it by
    rounding), to a hundredth of the width inside one that does not. ``sample`` is uniform.

    Raises:
        OptionError: bounds that are not finite or not in order, or a bound that requires grad;
            another ``closed``.

    Example:
        >>> import torch
        >>> from constrainedparams import Interval
        >>> Interval(-1.0, 1.0)(torch.zeros(2))
        tensor([0., 0.])
        >>> Interval(0.0, 1.0).contains(torch.tensor([0.5, 1.0]))
        tensor([ True, False])
        >>> Interval(0.0, 1.0, closed="left").contains(torch.tensor([0.0, 0.5, 1.0]))
        tensor([ True,  True, False])
    """

    lower: Any
    upper: Any
    closed: bool | Literal["left", "right"] = False

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: not self.closed)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: {"left": "a", "right": "b"}.get(self.closed, "(a + b)/2"))

    def _check_options(self) -> None:
        if not isinstance(self.closed, bool) and self.closed not in ("left", "right"):
            raise OptionError(
                f"closed={self.closed!r}: expected True for [a, b], False for (a, b), "
                '"left" for [a, b) or "right" for (a, b].'
            )
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

    @property
    def _ends(self) -> tuple[bool, bool]:
        """Whether a and b belong to the set."""
        return self.closed in (True, "left"), self.closed in (True, "right")

    def _limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest number of this dtype in the set."""
        (a, b), (left, right) = self._bounds(x), self._ends
        return a if left else beyond(a, 1), b if right else beyond(b, -1)

    def _clipped(self, y: Tensor) -> Tensor:
        low, high = self._limits(y)
        return torch.minimum(torch.maximum(y, low), high)

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        if y.dtype == dtype:
            return y
        if self.closed is True:
            return shortened(y, dtype)
        (a, b), (left, right) = self._bounds(y), self._ends
        # Rounding to fewer digits may cross either bound.
        y = y if left else rounded_beyond(y, dtype, a, 1).to(y.dtype)
        return shortened(y, dtype) if right else rounded_beyond(y, dtype, b, -1)

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y = intervals.onto(x, *self._bounds(x), self._ends)
        return with_value(y, self._clipped(y))

    def _right_inverse(self, y: Tensor) -> Tensor:
        return intervals.inverse(y, *self._bounds(precise(y)), self._ends)

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
        rounded = [t for t, ours in zip((a, b), self._ends, strict=True) if ours] or [a, b]
        return max(float(t.abs().max()) for t in rounded) * torch.finfo(dtype).eps

    def _polish(self, y: Tensor) -> Tensor:
        return self._clipped(y) if self.closed else self._project(y)

    def _project(self, y: Tensor) -> Tensor:
        (low, high), (left, right) = self._limits(y), self._ends
        inner = _MARGIN * high - _MARGIN * low
        y = torch.where(y < low, low if left else low + inner, y)
        return torch.where(y > high, high if right else high - inner, y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
        low, high = self._limits(like)
        return self._clipped(low * (1 - u) + high * u)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return 1

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.closed:
            return super()._log_abs_det_jacobian(x)
        a, b = self._bounds(x)
        log_sigmoid = torch.nn.functional.logsigmoid
        return torch.log(0.5 * b - 0.5 * a) + math.log(2) + log_sigmoid(x) + log_sigmoid(-x)
