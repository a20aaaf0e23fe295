"""Cholesky factors of correlation matrices, some of their entries fixed at 0 by a mask."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import correlation as c
from ..numerics.elementary import precise, real_diagonal
from ..numerics.vectors import length, unit
from .constants import Constant, broadcasts
from .contract import Shape
from .matrix_constraint import MatrixConstraint

__all__ = ["CorrelationCholesky"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class CorrelationCholesky(MatrixConstraint):
    """y is lower triangular with rows of length 1 and a positive diagonal: y y^H has unit diagonal.

    y = the rows of tril(x, -1) + I divided by their lengths (the map of PyMC and TensorFlow
    Probability). The factor keeps its digits where y y^H has lost them: in single precision the
    matrix fails a Cholesky test from a condition number of 1e7 on.

    Args:
        mask: booleans of shape (n, n) (or broadcasting to it), True where y may differ from 0:
            structural zeros of the factor. On and above the diagonal it is not read.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n) with n >= 1; x has the shape of y, and only its entries below the diagonal
    are read. Dtypes: real, complex.
    ``right_inverse`` divides rows by the diagonal. ``project`` drops what should be 0, moves
    diagonal entries that are not positive to a thousandth of the length of the row, and divides
    rows by their length: nearest but for this margin. In ``sample`` y y^H is uniform among the
    correlation matrices (LKJ with eta = 1); what a mask forbids goes into the diagonal. The
    residual is the largest of |entries| that should be 0 and of abs(length - 1), and more than
    rounding where a diagonal entry is not positive.

    Raises:
        OptionError: a mask that is not boolean.
        ShapeError: not square, of size 0, or a mask of another shape.

    Example:
        >>> import torch
        >>> from constrainedparams import CorrelationCholesky
        >>> y = CorrelationCholesky()(torch.tensor([[0.0, 0.0], [0.75, 0.0]]))
        >>> y
        tensor([[1.0000, 0.0000],
                [0.6000, 0.8000]])
        >>> CorrelationCholesky(mask=torch.eye(2).bool()).dimension((2, 2))
        0
    """

    mask: Any = None

    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: True)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "I")

    def _check_options(self) -> None:
        mask = self.mask
        known = isinstance(mask, Constant) and mask.value.dtype == torch.bool
        if mask is not None and not known:
            raise OptionError(
                f"mask={mask!r}: expected a tensor of booleans, True where the factor may differ "
                "from 0. Write for example `mask=factor != 0`."
            )

    def _check(self, shape: Shape) -> str | None:
        if shape[-2] != shape[-1] or shape[-1] == 0:
            return "expected square matrices of size 1 or more. Check view=."
        if self.mask is None or broadcasts(self.mask, shape[-2:]):
            return None
        return f"expected matrices of the shape of the mask, {tuple(self.mask.value.shape)}."

    def _free(self, like: Tensor) -> Tensor:
        """1 where y has a free entry, else 0, in the real dtype of ``like``."""
        n = like.shape[-1]
        below = torch.ones(n, n, dtype=like.real.dtype, device=like.device).tril(-1)
        return below if self.mask is None else below * self.mask.like(below)

    def _kept(self, y: Tensor) -> Tensor:
        """y with 0 where it has to be 0, and a real diagonal."""
        return y * self._free(y) + torch.diag_embed(real_diagonal(y))

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        # The derivative of a long row is a small difference of large numbers: in double precision.
        return c.factor_of_rows(precise(x * self._free(x))).to(x.dtype)

    def _right_inverse(self, y: Tensor) -> Tensor:
        wide = precise(y)
        return wide * self._free(wide) / real_diagonal(wide).unsqueeze(-1)

    def _residual(self, y: Tensor) -> Tensor:
        wide = precise(y)
        off = (wide - self._kept(wide)).abs().amax((-2, -1))
        off = torch.maximum(off, (length(wide) - 1).abs().amax(-1))
        turned = (real_diagonal(wide) <= 0).any(-1)
        return off + 2 * self._tolerance(tuple(y.shape), y.dtype) * turned

    def _project(self, y: Tensor) -> Tensor:
        kept = self._kept(y)
        diagonal, size = real_diagonal(kept), length(kept)
        margin = _MARGIN * torch.where(size > 0, size, torch.ones_like(size))
        raised = torch.where(diagonal > 0, torch.zeros_like(margin), margin - diagonal)
        return unit(kept + torch.diag_embed(raised))

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        return c.uniform_factor(shape, like, generator, self._free(like.new_empty(shape[-2:])))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        free = int(self._free(torch.empty(shape, device="cpu")).sum())
        return (2 if is_complex else 1) * free

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        free = self._free(x)
        return c.log_det_rows(x * free, free.sum(-1))
