"""Lower triangular matrices with a positive diagonal."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..numerics import definite as d
from ..numerics.elementary import precise, real_diagonal
from .contract import Shape
from .matrix_constraint import MatrixConstraint

__all__ = ["CholeskyFactor"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class CholeskyFactor(MatrixConstraint):
    """Cholesky factors: y is lower triangular, its diagonal positive (also of a complex y).

    y = tril(x, -1) + diag(softplus(diag x)), the map of Stan and TensorFlow Probability with
    softplus for exp; neither the upper triangle of x nor the imaginary part of its diagonal is
    read. The smallest normal number is added to the diagonal: softplus underflows to 0 below
    x = -104 in float32.

    Args:
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x has the shape of y. Dtypes: real, complex.
    The residual is the sum of |entries| that should be 0 or lie below it, divided by the sum of all
    |entries|, and more than rounding where a diagonal entry is not positive. ``project`` drops the
    upper triangle and moves diagonal entries that are not positive to a thousandth of the norm
    (the nearest, 0, is outside). ``sample`` is the factor of ``PositiveDefinite().sample``.

    Raises:
        ShapeError: not square.

    Example:
        >>> import torch
        >>> from constrainedparams import CholeskyFactor
        >>> covariance = torch.tensor([[4.0, 2.0], [2.0, 5.0]])
        >>> x = CholeskyFactor().right_inverse(torch.linalg.cholesky(covariance))
        >>> y = CholeskyFactor()(x)
        >>> torch.allclose(y @ y.mT, covariance)
        True
        >>> CholeskyFactor().contains(torch.diag(torch.tensor([1.0, -1.0])))
        tensor(False)
    """

    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: True)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "ln(2) I")

    def _check(self, shape: Shape) -> str | None:
        if shape[-2] == shape[-1]:
            return None
        return "expected square matrices. For a rectangular weight use a set such as Orthogonal."

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return d.factor(x, torch.finfo(x.dtype).tiny)

    def _right_inverse(self, y: Tensor) -> Tensor:
        return d.factor_inverse(precise(y), y.dtype, torch.finfo(y.dtype).tiny)

    def _residual(self, y: Tensor) -> Tensor:
        wide = precise(y)
        diagonal = torch.diagonal(wide, dim1=-2, dim2=-1)
        off = wide.triu(1).abs().sum((-2, -1)) + (diagonal - diagonal.real).abs().sum(-1)
        off = off - diagonal.real.clamp_max(0).sum(-1)
        share = off / wide.abs().sum((-2, -1)).clamp_min(torch.finfo(wide.dtype).tiny)
        beyond = 2 * self._tolerance(tuple(y.shape), y.dtype)
        return share + beyond * (diagonal.real <= 0).any(-1)

    def _project(self, y: Tensor) -> Tensor:
        diagonal = real_diagonal(y)
        norm = torch.linalg.matrix_norm(y).unsqueeze(-1)
        margin = _MARGIN * torch.where(norm > 0, norm, torch.ones_like(norm))
        return y.tril(-1) + torch.diag_embed(torch.where(diagonal > 0, diagonal, margin))

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.linalg.cholesky(d.wishart(shape, like, generator))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n = shape[-1]
        return n * n if is_complex else n * (n + 1) // 2

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        diagonal = real_diagonal(x)
        return torch.nn.functional.logsigmoid(diagonal).sum(-1)
