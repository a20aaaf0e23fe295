"""Lower triangular matrices."""

from dataclasses import dataclass
from typing import ClassVar

from .matrix_constraint import MatrixConstraint
from .triangular import Triangular

__all__ = ["LowerTriangular"]


@dataclass(frozen=True, repr=False)
class LowerTriangular(MatrixConstraint, Triangular):
    """Lower triangular matrices, y = tril(x); with a given diagonal if asked.

    Args:
        diagonal: None, a free diagonal; a number that stands all along it: 1 for unit lower
            triangular matrices, 0 for strictly lower triangular ones. (A positive diagonal:
            ``CholeskyFactor``.)
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, m); x has the shape of y, its other entries are not read. Dtypes: real,
    complex. ``right_inverse`` gives x = y; ``project`` is f, which is nearest; ``sample`` is f of a
    normal matrix; the residual is relative, |y - f(y)|_F / |y|_F. log |det J| is 0.

    Raises:
        OptionError: a diagonal that is no finite number.

    Example:
        >>> import torch
        >>> from constrainedparams import LowerTriangular
        >>> LowerTriangular()(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[1., 0.],
                [3., 4.]])
        >>> LowerTriangular(diagonal=1.0)(torch.tensor([[5.0, 2.0], [3.0, 4.0]]))
        tensor([[1., 0.],
                [3., 1.]])
    """

    _lower: ClassVar[bool] = True
