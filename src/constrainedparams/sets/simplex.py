"""Probability vectors: numbers with sum 1."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics import vectors
from ..numerics.elementary import above_zero, precise
from .contract import Shape, VectorConstraint

__all__ = ["Simplex"]

_MARGIN = 0.01
_LEAST_HALF = 2.0**-24  # of float16: what a 0 in half precision may have been


@dataclass(frozen=True, repr=False)
class Simplex(VectorConstraint):
    """The simplex: positive numbers (closed: numbers >= 0) with sum 1.

    Open: y = softmax(x), y_i = exp(x_i) / sum_j exp(x_j). Values that would round to 0 become the
    smallest positive number of the dtype. Closed: y_i = x_i^2 / sum_j x_j^2, which reaches zeros
    and leaves them again (Levin, Kileel, Boumal, arXiv 2207.03512). The slope of an entry that is
    0 is 0, so nothing starts there: ``right_inverse`` gives the zeros of a vector the rounding unit
    together, and ``project`` 0.01/n each.

    Args:
        closed: whether zeros belong to the set.
        dim: the axis of the vectors (:class:`VectorConstraint`). For a matrix, ``dim=-1`` is
            row-stochastic and ``dim=0`` column-stochastic.

    Shapes: any with n >= 1 numbers in each vector; x has the shape of y. Dtypes: real.
    ``right_inverse`` gives log y minus its mean (open), y^(1/2) (closed), and ``retract`` brings x
    into that form. ``project`` is the nearest point with all entries at least 0.01/n, for vectors
    that are off the set; ``sample`` is uniform. The residual is the larger one of abs(sum - 1) and
    the distance of an entry from its bound; with two tolerances added, because a bound of an open
    set is outside. In half precision a 0 is read as a rounded positive number.

    Raises:
        ShapeError: vectors without entries, or an axis that the tensor does not have.

    Example:
        >>> import torch
        >>> from constrainedparams import Simplex
        >>> Simplex()(torch.zeros(4))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
        >>> Simplex().contains(torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.5, 0.6]]))
        tensor([ True, False, False])
        >>> Simplex(closed=True).contains(torch.tensor([1.0, 0.0]))
        tensor(True)
    """

    closed: bool = False

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: not self.closed)  # closed: not at x = 0
    decay_target = property(lambda self: "itself; at x = 0 exactly, 1/n" if self.closed else "1/n")

    def _check(self, shape: Shape) -> str | None:
        if shape[-1] > 0:
            return None
        return "expected at least one number in each vector. Check dim=, or use a larger layer."

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return vectors.unit(x).square() if self.closed else vectors.softmax(x)

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return y.to(dtype) if self.closed else above_zero(y.to(dtype))

    def _right_inverse(self, y: Tensor) -> Tensor:
        if self.closed:
            unit = torch.full_like(y, torch.finfo(y.dtype).eps / y.shape[-1])
            return torch.where(y > 0, y, unit).sqrt()
        logarithms = precise(y).log()
        return logarithms - logarithms.mean(-1, keepdim=True)

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return (vectors.unit(x) if self.closed else x - x.mean(-1, keepdim=True)), state

    def _residual(self, y: Tensor) -> Tensor:
        beyond = 2 * self._tolerance(tuple(y.shape), y.dtype) - y
        inside = y >= 0 if self.closed else y > 0
        outside = torch.where(inside, torch.zeros_like(y), beyond).amax(-1)
        return torch.maximum((precise(y).sum(-1) - 1).abs().to(y.dtype), outside)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        # Entries are rounded to eps, those below the smallest normal number to eps times that.
        info = torch.finfo(dtype)
        return 8 * info.eps * (1 + info.tiny * shape[-1])

    def _polish(self, y: Tensor) -> Tensor:
        zero = torch.full_like(y, 0.0 if self.closed else _LEAST_HALF)
        positive = torch.where(y > 0, y, zero)
        return positive / positive.sum(-1, keepdim=True)

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        moved = vectors.nearest_in_simplex(y, _MARGIN / y.shape[-1]).to(y.dtype)
        return torch.where(off.unsqueeze(-1), moved, y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
        gaps = above_zero(-torch.log1p(-u))
        return gaps / gaps.sum(-1, keepdim=True)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return shape[-1] - 1
