"""Convex sequences."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..numerics import sequences
from ..numerics.elementary import precise
from .contract import Shape
from .vector_constraint import VectorConstraint

__all__ = ["Convex"]

_MARGIN = 0.01


@dataclass(frozen=True, repr=False)
class Convex(VectorConstraint):
    """Convex sequences, y_(i+1) - 2 y_i + y_(i-1) > 0: values of a convex function on equal steps.

    y_1 = x_1, y_2 = x_1 + x_2, y_i = 2 y_(i-1) - y_(i-2) + softplus(x_i): the sum of a sum of
    positive numbers. The second differences are positive up to the rounding of y; those of a
    constant are 0 without rounding: it is off the set, and no layer starts where the map is flat.

    Args:
        dim: the axis of the sequences (:class:`VectorConstraint`).

    Shapes: any with n >= 1 numbers in each sequence; x has the shape of y. Dtypes: real.
    ``project`` moves the slopes of sequences that are off the set to the nearest ones with steps
    of at least 0.01, and keeps the mean of y (the nearest sequence is a quadratic programme);
    ``sample`` sums up sorted normal slopes from a normal start. The residual is the largest
    shortfall of a second difference, relative to the largest |y_i|, and 1 for a constant.

    Raises:
        ShapeError: sequences without entries, or an axis that the tensor does not have.

    Example:
        >>> import torch
        >>> from constrainedparams import Convex
        >>> Convex()(torch.tensor([1.0, -1.0, 0.0, 0.0]))
        tensor([ 1.0000,  0.0000, -0.3069,  0.0794])
        >>> Convex().contains(torch.tensor([[4.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]]))
        tensor([ True, False])
    """

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: True)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "y_i = (i - 1)(i - 2)/2 ln(2)")

    def _check(self, shape: Shape) -> str | None:
        if shape[-1] > 0:
            return None
        return "expected at least one number in each sequence. Check dim=, or use a larger layer."

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return sequences.convex(x)

    def _right_inverse(self, y: Tensor) -> Tensor:
        return sequences.convex_inverse(y)

    def _residual(self, y: Tensor) -> Tensor:
        if y.shape[-1] < 3:
            return y.sum(-1) * 0
        wide = precise(y)
        short = (-wide.diff(n=2, dim=-1)).clamp_min(0).amax(-1)
        share = short / wide.abs().amax(-1).clamp_min(torch.finfo(y.dtype).tiny)
        constant = (wide == wide[..., :1]).all(-1)
        return torch.where(constant, torch.ones_like(share), share).to(y.dtype)

    def _polish(self, y: Tensor) -> Tensor:
        return y  # the right inverse reads rounded steps

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        if y.shape[-1] < 3:
            return y
        wide = precise(y)
        gap = (8 * torch.finfo(y.dtype).eps * wide.abs().amax(-1)).clamp_min(_MARGIN)
        slopes = sequences.isotonic(wide.diff(dim=-1), gap)
        moved = torch.cat((wide[..., :1], slopes), dim=-1).cumsum(-1)
        moved = moved + (wide - moved).mean(-1, keepdim=True)
        return torch.where(off.unsqueeze(-1), moved.to(y.dtype), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        draw = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        slopes = draw[..., 1:].sort(-1).values
        return torch.cat((draw[..., :1], slopes), dim=-1).cumsum(-1)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return shape[-1]

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.logsigmoid(x[..., 2:]).sum(-1)
