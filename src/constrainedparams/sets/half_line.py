"""What numbers above a bound and numbers below one share."""

from dataclasses import dataclass
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

# There the softplus has 1 % of its largest slope.
_MARGIN = 0.01


@dataclass(frozen=True, repr=False)
class HalfLine(Constraint):
    """y = bound + s softplus(s x), s = 1 above the bound and -1 below it."""

    _sign: ClassVar[int]

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: True)
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
        y = bound + self._sign * softplus(self._sign * x)
        return with_value(y, self._outermost(y, beyond(bound, self._sign)))

    def _outermost(self, y: Tensor, limit: Tensor) -> Tensor:
        return torch.maximum(y, limit) if self._sign > 0 else torch.minimum(y, limit)

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        if y.dtype == dtype:
            return y
        return rounded_beyond(y, dtype, as_tensor(self._bound, y), self._sign)

    def _right_inverse(self, y: Tensor) -> Tensor:
        wide = precise(y)
        return self._sign * inverse_softplus(self._sign * (wide - as_tensor(self._bound, wide)))

    def _residual(self, y: Tensor) -> Tensor:
        bound = as_tensor(self._bound, y)
        distance = self._sign * (beyond(bound, self._sign) - y)
        inside = self._sign * (y - bound) > 0
        return torch.where(inside, torch.zeros_like(y), distance)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 0.0

    def _project(self, y: Tensor) -> Tensor:
        bound = as_tensor(self._bound, y)
        margin = (8 * torch.finfo(y.dtype).eps * bound.abs()).clamp_min(_MARGIN)
        inside = self._sign * (y - bound) > 0
        return torch.where(inside, y, bound + self._sign * margin)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
        bound = as_tensor(self._bound, like)
        return self._outermost(bound - self._sign * torch.log1p(-u), beyond(bound, self._sign))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return 1

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.logsigmoid(self._sign * x)
