"""Generators of continuous-time Markov chains."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics import stochastic as s
from ..numerics.elementary import above_zero, inverse_softplus, precise, softplus
from .contract import Shape
from .matrix_constraint import MatrixConstraint, not_square

__all__ = ["RateMatrix"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class RateMatrix(MatrixConstraint):
    """Rate matrices: positive off the diagonal, every row sums to 0 (exp(t y) is row-stochastic).

    y_ij = softplus(x_ij) off the diagonal, y_ii = -sum of the others in the row. The diagonal of x
    is not read. Rates that would round to 0 become the smallest positive number of the dtype.

    Args:
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x has the shape of y. Dtypes: real.
    The residual is the largest share of a row, sum of |entries|, by which it misses the sum 0 or
    has a negative rate, and more than rounding where a rate is 0. ``project`` is the nearest matrix
    with rates of at least a thousandth of the largest |entry|, for matrices that are off the set.
    In ``sample`` the rates are exponentially distributed with mean 1.

    Raises:
        ShapeError: not square.

    Example:
        >>> import torch
        >>> from constrainedparams import RateMatrix
        >>> y = RateMatrix()(torch.randn(3, 3))
        >>> torch.linalg.matrix_exp(y).sum(-1)
        tensor([1.0000, 1.0000, 1.0000])
        >>> RateMatrix().contains(torch.tensor([[-2.0, 2.0], [0.5, -0.4]]))
        tensor(False)
    """

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: True)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "ln(2) off the diagonal, -(n - 1) ln(2) on it")

    def _check(self, shape: Shape) -> str | None:
        return not_square(shape, "For rows with sum 1 use a set such as Simplex.")

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        rates = torch.where(s.off_diagonal(x), above_zero(softplus(x)), 0)
        return s.with_zero_rows(rates)

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        low = y.to(dtype)
        return low if low is y else torch.where(s.off_diagonal(y), above_zero(low), low)

    def _right_inverse(self, y: Tensor) -> Tensor:
        others = s.off_diagonal(y)
        rates = inverse_softplus(torch.where(others, precise(y), 1))
        return torch.where(others, rates, 0)

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.where(s.off_diagonal(x), x, 0), state

    def _residual(self, y: Tensor) -> Tensor:
        wide, others = precise(y), s.off_diagonal(y)
        size = wide.abs().sum(-1).clamp_min(torch.finfo(wide.dtype).tiny)
        negative = torch.where(others, -wide, 0).clamp_min(0).sum(-1)
        share = torch.maximum(wide.sum(-1).abs(), negative) / size
        closed = (others & (wide <= 0)).any(-1)
        share = share + 2 * self._tolerance(tuple(y.shape), y.dtype) * closed
        return share.sum(-1).to(y.dtype) if y.shape[-1] == 0 else share.amax(-1).to(y.dtype)

    def _project(self, y: Tensor) -> Tensor:
        if y.shape[-1] == 0:
            return y
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        largest = torch.linalg.vector_norm(y, torch.inf, dim=(-2, -1), keepdim=True)
        low = _MARGIN * torch.where(largest > 0, largest, torch.ones_like(largest))
        return torch.where(off[..., None, None], s.nearest_rates(y, low), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
        rates = torch.where(s.off_diagonal(u), above_zero(-torch.log1p(-u)), 0)
        return s.with_zero_rows(rates)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return shape[-1] * (shape[-1] - 1)

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        slopes = torch.nn.functional.logsigmoid(x)
        return torch.where(s.off_diagonal(x), slopes, 0).sum((-2, -1))
