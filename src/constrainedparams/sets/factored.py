"""What sets of positive semidefinite matrices y = Z Z^H share: the factor, and the rank."""

from dataclasses import MISSING, dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import OptionError, ShapeError
from ..numerics import semidefinite as s
from ..numerics.definite import gram
from .contract import Shape
from .matrix_constraint import MatrixConstraint
from .views import View

__all__ = ["Factored"]


@dataclass(frozen=True, repr=False)
class Factored(MatrixConstraint):
    """y = Z Z^H with Z made of x (..., n, n), or (..., n, rank) where a rank is given.

    A set of this family implements how (``_rows``), and what else holds of y (``_off``).
    """

    rank: int | None = None

    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)

    def _check_options(self) -> None:
        required = all(f.default is MISSING for f in fields(self) if f.name == "rank")
        if self.rank is None and not required:
            return
        if type(self.rank) is not int or self.rank < 1:
            raise OptionError(f"rank={self.rank!r}: expected a whole number above 0.")

    def _check(self, shape: Shape) -> str | None:
        if shape[-2] != shape[-1]:
            return "expected square matrices. For a rectangular weight use a set such as LowRank."
        if self.rank is not None and self.rank > shape[-1]:
            return f"expected matrices of size {self.rank} or more. Use a lower rank, or None."
        return None

    def _unconstrained_shape(self, shape: Shape) -> Shape:
        return shape if self.rank is None else (*self._matrix_shape(shape)[:-1], self.rank)

    def _constrained_shape(self, shape: Shape) -> Shape:
        if self.rank is None:
            return shape
        if len(shape) < 2 or shape[-1] != self.rank:
            raise ShapeError(
                f"{self!r} got an x of shape {shape}; expected (..., n, {self.rank}) for a y of "
                "shape (..., n, n). Take x from right_inverse."
            )
        matrix = (*shape[:-1], shape[-2])
        return self._layout.tensor_shape(matrix) if isinstance(self._layout, View) else matrix

    def _rows(self, x: Tensor) -> Tensor:
        """Z."""
        return x

    def _off(self, y: Tensor) -> Tensor:
        """How far y is from what holds besides Z Z^H."""
        return y.real.new_zeros(y.shape[:-2])

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return gram(self._rows(x))

    def _factorization(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"root": self._rows(x)}

    def _right_inverse(self, y: Tensor) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        return s.square_root(y, self.rank, torch.finfo(y.dtype).eps)

    def _residual(self, y: Tensor) -> Tensor:
        return torch.maximum(s.indefiniteness(y, self.rank)[0], self._off(y))

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 4 * shape[-1] ** 0.5 * torch.finfo(dtype).eps

    def _draw(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """A normal matrix of the shape of Z; without a rank of twice as many columns."""
        *batch, n, _ = shape
        made = (*batch, n, 2 * n if self.rank is None else self.rank)
        return torch.randn(made, dtype=like.dtype, device=like.device, generator=generator)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n = shape[-1]
        r = n if self.rank is None else self.rank
        return 2 * n * r - r * r if is_complex else n * r - r * (r - 1) // 2
