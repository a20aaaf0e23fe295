"""Square matrices with trace 0."""

from dataclasses import dataclass

from torch import Tensor

from ..numerics.linear import traceless
from .contract import Shape
from .linear import Linear
from .matrix_constraint import MatrixConstraint, not_square

__all__ = ["Traceless"]


@dataclass(frozen=True, repr=False)
class Traceless(MatrixConstraint, Linear):
    """Square matrices with trace 0, the Lie algebra sl(n): y = x - tr(x)/n I.

    The orthogonal projector: the gradient in x is that in y without its trace.

    Args:
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x has the shape of y. Dtypes: real, complex.
    ``right_inverse`` gives x = y; ``project`` is f, which is nearest; ``sample`` is f of a normal
    matrix; the residual is |tr y| n^-1/2 / |y|_F, the relative distance.

    Raises:
        ShapeError: not square.

    Example:
        >>> import torch
        >>> from constrainedparams import Traceless
        >>> Traceless()(torch.tensor([[1.0, 4.0], [2.0, 5.0]]))
        tensor([[-2.,  4.],
                [ 2.,  2.]])
    """

    def _check(self, shape: Shape) -> str | None:
        return not_square(shape, "Read it as square blocks with view=.")

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return traceless(x)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n = shape[-1]
        return (2 if is_complex else 1) * max(n * n - 1, 0)
