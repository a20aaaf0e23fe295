"""What numbers above a bound and numbers below one share."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from ..numerics.elementary import (
    beyond,
    inverse_softplus,
    precise,
    rounded_beyond,
    softplus,
    with_value,
)
from .constants import as_real, as_tensor, broadcasts
from .contract import Constraint, Shape

__all__ = ["HalfLine"]

# There the softplus has 1 % of its largest slope; the square the slope 0.06.
_MARGIN, _CLOSED_MARGIN = 0.01, 1e-3


@dataclass(frozen=True, repr=False)
class HalfLine(Constraint):
    """y = bound + s softplus(s x), s = 1 above the bound and -1 below it; closed: bound + s x^2."""

    closed: bool = field(default=False, kw_only=True)

    _sign: ClassVar[int]

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: not self.closed)
    smooth = property(lambda self: True)

    @property
    def _bound(self) -> Any:
        raise NotImplementedError

    def _check_options(self) -> None:
        if not bool(torch.isfinite(as_real(self._bound)).all()):
            raise OptionError(
                f"{self!r}: expected a finite bound. Where there is none, leave the parameter free."
            )

    def _check(self, shape: Shape) -> str | None:
        if broadcasts(self._bound, shape):
            return None
        return "expected one that the bound broadcasts to. Reshape the bound."

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        bound = as_tensor(self._bound, x)
        if self.closed:
            return bound + self._sign * (x * x)
        y = bound + self._sign * softplus(self._sign * x)
        return with_value(y, self._outermost(y, beyond(bound, self._sign)))

    def _outermost(self, y: Tensor, limit: Tensor) -> Tensor:
        return torch.maximum(y, limit) if self._sign > 0 else torch.minimum(y, limit)

    def _inside(self, y: Tensor) -> Tensor:
        rest = self._sign * (y - as_tensor(self._bound, y))
        return rest >= 0 if self.closed else rest > 0

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        if y.dtype == dtype or self.closed:
            return y.to(dtype)
        return rounded_beyond(y, dtype, as_tensor(self._bound, y), self._sign)

    def _right_inverse(self, y: Tensor) -> Tensor:
        wide = precise(y)
        bound = as_tensor(self._bound, wide)
        rest = self._sign * (wide - bound)
        if self.closed:  # at the bound, x = 0, the square is flat and x would never leave
            eps = torch.finfo(y.dtype).eps
            return torch.where(rest > eps * bound.abs(), rest, eps).sqrt()
        return self._sign * inverse_softplus(rest)

    def _residual(self, y: Tensor) -> Tensor:
        bound = as_tensor(self._bound, y)
        limit = bound if self.closed else beyond(bound, self._sign)
        return torch.where(self._inside(y), torch.zeros_like(y), self._sign * (limit - y))

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        # In half precision rounding may cross a bound that belongs to the set.
        if not self.closed or torch.finfo(dtype).bits > 16:
            return 0.0
        return float(as_tensor(self._bound).abs().max()) * torch.finfo(dtype).eps

    def _polish(self, y: Tensor) -> Tensor:
        return self._outermost(y, as_tensor(self._bound, y)) if self.closed else self._project(y)

    def _project(self, y: Tensor) -> Tensor:
        bound = as_tensor(self._bound, y)
        least = _CLOSED_MARGIN if self.closed else _MARGIN
        margin = (8 * torch.finfo(y.dtype).eps * bound.abs()).clamp_min(least)
        return torch.where(self._inside(y), y, bound + self._sign * margin)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
        bound = as_tensor(self._bound, like)
        return self._outermost(bound - self._sign * torch.log1p(-u), beyond(bound, self._sign))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return 1

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.closed:
            return super()._log_abs_det_jacobian(x)
        return F.logsigmoid(self._sign * x)
