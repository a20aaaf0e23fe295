"""Solutions of linear equations."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics.elementary import precise
from ..numerics.linear import affine_rows, onto_null_space
from ..numerics.vectors import length
from .constants import Constant, as_tensor, broadcasts
from .contract import Shape
from .linear import Linear
from .vector_constraint import VectorConstraint

__all__ = ["AffineSubspace"]


@dataclass(frozen=True, repr=False)
class AffineSubspace(VectorConstraint, Linear):
    """Vectors with A y = b: y = x - A^+ (A x - b), the nearest one to x.

    A^+ is the pseudoinverse. In its place an orthonormal basis of the rows of A is kept, in double
    precision: how A is conditioned does not matter, and its rows may depend on each other.

    Args:
        A: a matrix (m, n).
        b: a number or a vector (m,).
        dim: the axis of the vectors (:class:`VectorConstraint`).

    Shapes: any with n numbers in each vector; x has the shape of y. Dtypes: real, complex (only
    complex where A or b is). ``right_inverse`` gives x = y; ``project`` is f, which is nearest;
    ``sample`` is f of a normal vector; the residual is the distance relative to the larger of |y|
    and |A^+ b|.

    Raises:
        OptionError: A is no matrix, b does not have its number of rows, a number in them is not
            finite, or no y solves the equations.
        ShapeError: vectors of another length, or an axis that the tensor does not have.

    Example:
        >>> import torch
        >>> from constrainedparams import AffineSubspace
        >>> mean_one = AffineSubspace([[0.25, 0.25, 0.25, 0.25]], 1.0)
        >>> mean_one(torch.tensor([0.0, 1.0, 2.0, 3.0]))
        tensor([-0.5000,  0.5000,  1.5000,  2.5000])
        >>> mean_one.dimension((4,))
        3
    """

    A: Any
    b: Any = 0.0

    _rows: ClassVar[Constant]
    _level: ClassVar[Constant]
    decay_target = property(lambda self: "A^+ b, the point nearest to 0")

    def _check_options(self) -> None:
        if not isinstance(self.A, Constant) or self.A.value.ndim != 2:
            raise OptionError(
                f"A={self.A!r}: expected a matrix. One equation is a matrix of one row."
            )
        A, b = self.A.value, as_tensor(self.b)
        if not broadcasts(self.b, A.shape[:1]):
            raise OptionError(f"b={self.b!r}: expected a number or a vector of length {len(A)}.")
        if not bool(torch.isfinite(A).all() and torch.isfinite(b).all()):
            raise OptionError(f"{self!r}: expected finite numbers. Replace the others.")
        both = torch.promote_types(A.dtype, b.dtype)
        both = torch.promote_types(both, torch.float64)
        solved = affine_rows(A.to(both), b.to(both))
        if solved is None:
            raise OptionError(
                f"{self!r}: no y has A y = b. Leave out equations, or give another b."
            )
        object.__setattr__(self, "_rows", Constant(solved[0]))
        object.__setattr__(self, "_level", Constant(solved[1]))

    def _check(self, shape: Shape) -> str | None:
        n = self.A.value.shape[1]
        return None if shape[-1] == n else f"A has {n} columns. Check dim=, or give another A."

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        rows, level = self._rows.like(x), self._level.like(x)
        return onto_null_space(x, rows) + level @ rows.conj()

    def _residual(self, y: Tensor) -> Tensor:
        wide = precise(y)
        level = self._level.like(wide)
        gap = length(wide @ self._rows.like(wide).mT - level)
        size = torch.maximum(length(wide), length(level))
        return torch.where(size == 0, torch.zeros_like(gap), gap / size).to(y.real.dtype)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        # n entries rounded by themselves; products are added up in the dtype of the computation.
        return torch.finfo(dtype).eps * (8 + shape[-1] ** 0.5)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * (shape[-1] - len(self._rows.value))
