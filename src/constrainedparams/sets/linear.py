"""What linear spaces share: the map is the orthogonal projector onto the space."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..numerics.vectors import relative_distance
from .contract import Constraint, Shape

__all__ = ["Linear"]


@dataclass(frozen=True, repr=False)
class Linear(Constraint):
    """y = P x, P the orthogonal projector onto the space, which is nearest to x.

    The gradient in x is P of that in y: a step of gradient descent in x is one in y along the
    space. What P drops of x changes nothing and gets no gradient. A space implements ``_forward``
    and ``_dimension``, and is ``one_to_one`` where P drops entries and keeps the others as they
    are. The residual is relative, |y - P y| / |y|.
    """

    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "0")

    def _right_inverse(self, y: Tensor) -> Tensor:
        return self._forward(y)

    def _residual(self, y: Tensor) -> Tensor:
        return relative_distance(y, self._forward(y), self.event_dim)

    def _project(self, y: Tensor) -> Tensor:
        return self._forward(y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        draw = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        return self._forward(draw)

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if not self.one_to_one:
            return super()._log_abs_det_jacobian(x)
        return torch.zeros(x.shape[: -self.event_dim], dtype=x.real.dtype, device=x.device)
