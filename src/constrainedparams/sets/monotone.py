"""What ordered vectors share: the map by steps, and the order in floating point."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..numerics import sequences
from ..numerics.elementary import above_zero, inverse_softplus, precise, softplus
from .contract import Shape
from .vector_constraint import VectorConstraint

__all__ = ["Monotone"]

# There the softplus has 1 % of its largest slope.
_MARGIN = 0.01


@dataclass(frozen=True, repr=False)
class Monotone(VectorConstraint):
    """y_1 = x_1 or softplus(x_1), y_i = y_(i-1) + gap + softplus(x_i), or the same downwards."""

    _positive: ClassVar[bool] = False
    _gap: ClassVar[float] = 0.0
    _sign: ClassVar[int] = 1

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: True)
    smooth = property(lambda self: True)

    def _check(self, shape: Shape) -> str | None:
        if shape[-1] > 0:
            return None
        return "expected at least one number in each vector. Check dim=, or use a larger layer."

    def _with_first(self, x: Tensor, first: Tensor) -> Tensor:
        return torch.cat((first, x[..., 1:]), dim=-1)

    def _apart(self, y: Tensor) -> Tensor:
        return sequences.separated(above_zero(y) if self._positive else y)

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        first = softplus(x[..., :1]) if self._positive else self._sign * x[..., :1]
        return self._sign * self._apart(sequences.increasing(self._with_first(x, first), self._gap))

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return y if y.dtype == dtype else self._sign * self._apart_along(self._sign * y.to(dtype))

    def _apart_along(self, y: Tensor) -> Tensor:
        """``_apart`` of a tensor in the shape of the parameter."""
        return self._write(self._apart(self._read(y)), tuple(y.shape))

    def _right_inverse(self, y: Tensor) -> Tensor:
        x = sequences.increasing_inverse(self._sign * y, self._gap)
        first = x[..., :1]
        return self._with_first(
            x, inverse_softplus(first) if self._positive else self._sign * first
        )

    def _residual(self, y: Tensor) -> Tensor:
        wide = precise(self._sign * y)
        size = torch.maximum(wide[..., 1:].abs(), wide[..., :-1].abs()).clamp_min(self._gap)
        tiny = torch.finfo(y.dtype).tiny
        steps = wide.diff(dim=-1)
        # Relative to the numbers whose difference it is: that is the part that may be rounding.
        short = (self._gap - steps).clamp_min(0) / size.clamp_min(tiny)
        # Equal numbers are off whatever the gap, also where it is less than rounding.
        beyond = 2 * self._tolerance(tuple(y.shape), y.dtype) + tiny
        off = torch.where(steps > 0, short, short.clamp_min(beyond))
        if self._positive:
            low = torch.where(wide > 0, torch.zeros_like(wide), (tiny - wide).clamp_min(beyond))
            off = torch.cat((off, low), dim=-1)
        return off.amax(-1).to(y.dtype) if off.shape[-1] else y.sum(-1) * 0

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 4 * torch.finfo(dtype).eps if self._gap else 0.0

    def _polish(self, y: Tensor) -> Tensor:
        return y  # the right inverse reads rounded steps

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        size = 8 * torch.finfo(y.dtype).eps * y.abs().amax(-1)
        moved = sequences.isotonic(self._sign * y, self._gap + size.clamp_min(_MARGIN))
        if self._positive:
            ramp = torch.arange(1, y.shape[-1] + 1, dtype=moved.dtype, device=y.device)
            moved = torch.maximum(moved, _MARGIN * ramp)
        return torch.where(off.unsqueeze(-1), self._sign * moved.to(y.dtype), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        draw = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        draw = draw.abs() if self._positive else draw
        ramp = self._gap * torch.arange(shape[-1], dtype=like.dtype, device=like.device)
        return self._sign * self._apart(draw.sort(-1).values + ramp)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return shape[-1]

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.logsigmoid(x if self._positive else x[..., 1:]).sum(-1)
