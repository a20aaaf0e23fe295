"""Symmetric matrices."""

from dataclasses import dataclass

from torch import Tensor

from .contract import Shape
from .linear import Linear
from .matrix_constraint import MatrixConstraint, not_square

__all__ = ["Symmetric"]


@dataclass(frozen=True, repr=False)
class Symmetric(MatrixConstraint, Linear):
    """Symmetric matrices, y = y^T. Complex matrices too are symmetric, not Hermitian.

    y = (x + x^T)/2, the orthogonal projector (for real x nearest in every orthogonally
    invariant norm: Fan, Hoffman, Proc. Amer. Math. Soc. 6, 1955). All entries of x are read, and
    the gradient in x is the symmetric part of that in y: a step of gradient descent in x is one in
    y along the set. (Copying a triangle would take steps twice as long off the diagonal as on it.)
    The skew part of x changes nothing and gets no gradient.

    Args:
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x has the shape of y. Dtypes: real, complex.
    ``right_inverse`` gives x = y; ``project`` is f, which is nearest; ``sample`` is f of a normal
    matrix: independent normal entries of variance 1 on the diagonal and 1/2 off it. The residual is
    relative, |y - y^T|_F / (2 |y|_F).

    Raises:
        ShapeError: not square.

    Example:
        >>> import torch
        >>> from constrainedparams import Symmetric
        >>> Symmetric()(torch.tensor([[1.0, 4.0], [2.0, 5.0]]))
        tensor([[1., 3.],
                [3., 5.]])
    """

    def _check(self, shape: Shape) -> str | None:
        return not_square(
            shape,
            "Read it as square blocks with view=, or use a set that has rectangular ones, such as "
            "Orthogonal.",
        )

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return 0.5 * x + 0.5 * x.mT

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n = shape[-1]
        return (2 if is_complex else 1) * (n * (n + 1) // 2)
