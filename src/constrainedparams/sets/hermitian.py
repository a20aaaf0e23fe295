"""Hermitian matrices."""

from dataclasses import dataclass

from torch import Tensor

from ..numerics.definite import hermitian
from .contract import Shape
from .linear import Linear
from .matrix_constraint import MatrixConstraint, not_square

__all__ = ["Hermitian"]


@dataclass(frozen=True, repr=False)
class Hermitian(MatrixConstraint, Linear):
    """Hermitian matrices, y = y^H; real ones are symmetric.

    y = (x + x^H)/2, the orthogonal projector (nearest in every unitarily invariant norm: Fan,
    Hoffman, Proc. Amer. Math. Soc. 6, 1955). All entries of x are read, and the gradient in x is
    the Hermitian part of that in y: a step of gradient descent in x is one in y along the set.
    (:class:`Symmetric` has the complex matrices with y = y^T.)

    Args:
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x has the shape of y. Dtypes: real, complex.
    ``right_inverse`` gives x = y; ``project`` is f, which is nearest; ``sample`` is f of a normal
    matrix (complex: the Gaussian unitary ensemble). The residual is relative,
    |y - y^H|_F / (2 |y|_F).

    Raises:
        ShapeError: not square.

    Example:
        >>> import torch
        >>> from constrainedparams import Hermitian
        >>> Hermitian()(torch.tensor([[1.0 + 3.0j, 4.0j], [2.0, 5.0]]))
        tensor([[1.+0.j, 1.+2.j],
                [1.-2.j, 5.+0.j]])
    """

    def _check(self, shape: Shape) -> str | None:
        return not_square(shape, "Read it as square blocks with view=.")

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return hermitian(x)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n = shape[-1]
        return n * n if is_complex else n * (n + 1) // 2
