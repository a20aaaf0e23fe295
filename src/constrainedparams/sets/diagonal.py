"""Diagonal matrices."""

from dataclasses import dataclass

from torch import Tensor

from ..numerics.linear import diagonal_matrix
from .contract import Shape
from .linear import Linear
from .matrix_constraint import MatrixConstraint

__all__ = ["Diagonal"]


@dataclass(frozen=True, repr=False)
class Diagonal(MatrixConstraint, Linear):
    """Diagonal matrices: y is x with 0 off the diagonal.

    Args:
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, m), min(n, m) free numbers; x has the shape of y, its other entries are not
    read. Dtypes: real, complex. ``right_inverse`` gives x = y; ``project`` is f, which is nearest;
    ``sample`` is f of a normal matrix; the residual is relative, |y - f(y)|_F / |y|_F.
    log |det J| is 0. Where the layer allows it, a vector that is multiplied entry by entry costs
    n times less.

    Example:
        >>> import torch
        >>> from constrainedparams import Diagonal
        >>> Diagonal()(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[1., 0.],
                [0., 4.]])
    """

    one_to_one = property(lambda self: True)

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return diagonal_matrix(x)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * min(shape[-2:])
