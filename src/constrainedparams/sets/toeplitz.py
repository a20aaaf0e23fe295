"""Matrices that are constant along each diagonal."""

from dataclasses import dataclass

from torch import Tensor

from ..numerics.linear import tied, toeplitz_classes
from .contract import Shape
from .linear import Linear
from .matrix_constraint import MatrixConstraint

__all__ = ["Toeplitz"]


@dataclass(frozen=True, repr=False)
class Toeplitz(MatrixConstraint, Linear):
    """Toeplitz matrices, y_ij = t_(i-j): a convolution along an axis, written as a matrix.

    y is x with each diagonal replaced by its mean, the orthogonal projector: x keeps the shape of
    y, and the gradient in x is the mean, along each diagonal, of that in y.

    Args:
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, m), n + m - 1 free numbers; x has the shape of y. Dtypes: real, complex.
    ``right_inverse`` gives x = y; ``project`` is f, which is nearest; ``sample`` is f of a normal
    matrix: independent diagonals, the variance of one with k entries is 1/k. The residual is
    relative, |y - f(y)|_F / |y|_F.

    Example:
        >>> import torch
        >>> from constrainedparams import Toeplitz
        >>> Toeplitz()(torch.tensor([[1.0, 2.0, 0.0], [4.0, 3.0, 4.0]]))
        tensor([[2., 3., 0.],
                [4., 2., 3.]])
    """

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        n, m = x.shape[-2:]
        return tied(x, *toeplitz_classes(n, m, x.device)) if n and m else x

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n, m = shape[-2:]
        return (2 if is_complex else 1) * (n + m - 1 if n and m else 0)
