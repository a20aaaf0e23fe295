"""Positive semidefinite matrices, of a given rank at most when asked for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics import semidefinite as s
from ..numerics.definite import gram
from .contract import Shape
from .factored import Factored

__all__ = ["PositiveSemidefinite"]


@dataclass(frozen=True, repr=False)
class PositiveSemidefinite(Factored):
    """Symmetric (complex: Hermitian) matrices with eigenvalues >= 0, at most ``rank`` above 0.

    y = x x^H with x n x n, or n x r for rank r. It reaches the boundary and leaves it again: every
    second-order critical point in x is a critical point in y (Levin, Kileel, Boumal, arXiv
    2207.03512). The derivative is 0 at x = 0, so nothing starts there: ``right_inverse`` takes
    eigenvalues below a rounding unit (of the largest; for y = 0 of 1) for that unit.

    Args:
        rank: the highest rank, from 1 to n; None for n.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n). x has the shape of y; with a rank x is (..., n, rank), the batch axes those
    of the matrices (then a ``view`` needs ``sizes`` of all axes that share a side of the matrix).
    Dtypes: real, complex.
    ``right_inverse`` gives x = y^1/2, with a rank the eigenvectors times the roots of their
    eigenvalues. ``project`` is the nearest point in the Frobenius norm (eigenvalues below 0, and
    all but the ``rank`` largest, become 0). ``sample`` is Wishart with mean I and 2n, or ``rank``,
    degrees of freedom. The residual is relative, the distance over |y|_F.

    Raises:
        OptionError: a rank that is not a whole number above 0.
        ShapeError: not square, or smaller than the rank.

    Example:
        >>> import torch
        >>> from constrainedparams import PositiveSemidefinite
        >>> y = PositiveSemidefinite(rank=1)(torch.tensor([[1.0], [2.0]]))
        >>> y
        tensor([[1., 2.],
                [2., 4.]])
        >>> PositiveSemidefinite(rank=1).contains(torch.eye(2))
        tensor(False)
    """

    smooth = property(lambda self: True)
    decay_target = property(lambda self: "0, where the derivative is 0 as well")

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        moved = s.nearest_semidefinite(y, self.rank).to(y.dtype)
        return torch.where(off[..., None, None], moved, y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        draw = self._draw(shape, like, generator)
        return gram(draw / max(draw.shape[-1], 1) ** 0.5)
