"""Matrices whose columns are the first one, turned round."""

from dataclasses import dataclass

from torch import Tensor

from ..numerics.linear import circulant_classes, tied
from .contract import Shape
from .linear import Linear
from .matrix_constraint import MatrixConstraint, not_square

__all__ = ["Circulant"]


@dataclass(frozen=True, repr=False)
class Circulant(MatrixConstraint, Linear):
    """Circulant matrices, y_ij = c_(i-j mod n): a convolution round a circle, written as a matrix.

    y is x with each of its n wrapped diagonals replaced by its mean, the orthogonal projector: x
    keeps the shape of y. The discrete Fourier transform diagonalises y; its eigenvalues are
    ``torch.fft.fft(y[:, 0])``.

    Args:
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n), n free numbers; x has the shape of y. Dtypes: real, complex.
    ``right_inverse`` gives x = y; ``project`` is f, which is nearest; ``sample`` is f of a normal
    matrix: independent c_k of variance 1/n. The residual is relative, |y - f(y)|_F / |y|_F.

    Raises:
        ShapeError: not square.

    Example:
        >>> import torch
        >>> from constrainedparams import Circulant
        >>> Circulant()(torch.tensor([[1.0, 5.0], [3.0, 2.0]]))
        tensor([[1.5000, 4.0000],
                [4.0000, 1.5000]])
    """

    def _check(self, shape: Shape) -> str | None:
        return not_square(shape, "For rectangular ones use Toeplitz().")

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        n = x.shape[-1]
        return tied(x, *circulant_classes(n, x.device)) if n else x

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * shape[-1]
