"""Numbers that are positive."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..numerics.elementary import above_zero, inverse_softplus, precise, softplus
from .contract import Constraint, Shape

__all__ = ["Positive"]

# There the softplus has 1 % of its largest slope.
_MARGIN = 0.01


@dataclass(frozen=True, repr=False)
class Positive(Constraint):
    """(0, infinity) for every entry: y = softplus(x) = log(1 + exp(x)).

    Dugas et al., Incorporating second-order functional knowledge, NIPS 2000. The slope is
    1 - exp(-y): that of the identity far from 0, that of the exponential near it, never 0. Values
    that would round to 0 (in float32 from x = -87 on) become the smallest positive number of the
    dtype, so y > 0 for every x.

    Shapes: any; x has the shape of y. Dtypes: real.
    ``project`` moves entries that are not positive to 0.01 and no other; ``sample`` is exponential
    with mean 1; the residual is the distance, for 0 the smallest normal number.

    Example:
        >>> import torch
        >>> from constrainedparams import Positive
        >>> Positive()(torch.tensor([-1000.0, 0.0, 1000.0])) > 0
        tensor([True, True, True])
        >>> Positive().right_inverse(torch.tensor([0.5, 100.0]))
        tensor([ -0.4328, 100.0000])
    """

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: True)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "ln(2)")

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return softplus(x)

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return above_zero(y.to(dtype))

    def _right_inverse(self, y: Tensor) -> Tensor:
        return inverse_softplus(precise(y))

    def _residual(self, y: Tensor) -> Tensor:
        distance = torch.finfo(y.dtype).tiny - y
        return torch.where(y > 0, torch.zeros_like(y), distance)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 0.0

    def _project(self, y: Tensor) -> Tensor:
        return torch.where(y > 0, y, torch.full_like(y, _MARGIN))

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
        return -torch.log1p(-u)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return 1

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.logsigmoid(x)
