"""Vectors of a given length."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import vectors
from ..numerics.elementary import precise
from ..numerics.linear import a_direction, affine_rows, onto_null_space
from .constants import Constant
from .contract import Shape
from .radius import check_radius
from .vector_constraint import VectorConstraint

__all__ = ["Sphere"]


@dataclass(frozen=True, repr=False)
class Sphere(VectorConstraint):
    """The sphere |y| = r in the Euclidean norm: unit rows, columns, filters, or a whole tensor.

    y = r x/|x|, at any scale of x (Absil, Mahony, Sepulchre, Optimization Algorithms on Matrix
    Manifolds, 2008, section 4.1: the retraction by normalisation). x = 0, where the map is not
    defined, gives r n^-1/2 (1, ..., 1), and a gradient that leads away from it.
    The gradient in x is orthogonal to x and proportional to 1/|x|, so steps of an optimiser let |x|
    grow and turn y less and less; ``retract`` sets x = y. Weight decay changes |x| only.

    Args:
        radius: r > 0.
        orthogonal_to: vectors a, the rows of a matrix: the sphere in the subspace a y = 0. x is
            projected onto it first; ``[[1, ..., 1]]`` gives unit vectors with sum 0. In place of
            (1, ..., 1) stands a fixed vector of the subspace.
        dim: the axis of the vectors. With ``dim=-1`` the rows of a matrix have length r (the
            oblique manifold), with ``dim=0`` its columns, with ``dim=(1, 2, 3)`` the filters of a
            convolution; with ``dim=None`` the whole tensor has the Frobenius norm r.

    Shapes: any with n >= 1 numbers in each vector; x has the shape of y. Dtypes: real, complex.
    ``right_inverse`` gives x = y; ``project`` is f: the nearest point, and the choice above for 0;
    ``sample`` is uniform; the residual is the distance, abs(|y| - r), plus that from the subspace.

    Raises:
        OptionError: a radius that is not positive and finite, or vectors ``orthogonal_to`` that
            are no matrix or leave nothing.
        ShapeError: vectors without entries, or an axis that the tensor does not have.

    Example:
        >>> import torch
        >>> from constrainedparams import Sphere
        >>> Sphere()(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
        >>> y = Sphere(2.0, dim=None)(torch.randn(5, 4))
        >>> round(float(y.norm()), 3)
        2.0
    """

    radius: float = 1.0
    orthogonal_to: Any = None

    has_complex: ClassVar[bool] = True
    _rows: ClassVar[Constant]
    _start: ClassVar[Constant]

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: False)  # not at x = 0
    decay_target = property(lambda self: "itself; at x = 0 exactly, r n^-1/2 (1, ..., 1)")

    def _check_options(self) -> None:
        check_radius(self.radius)
        if self.orthogonal_to is not None:
            self._take_subspace()

    def _take_subspace(self) -> None:
        """Keep orthonormal rows of what y is orthogonal to, and a start in the subspace."""
        if not (isinstance(self.orthogonal_to, Constant) and self.orthogonal_to.value.ndim == 2):
            raise OptionError(
                f"orthogonal_to={self.orthogonal_to!r}: expected a matrix, the vectors its rows. "
                "For one vector write `orthogonal_to=vector[None]`."
            )
        value = self.orthogonal_to.value
        wide = value.to(torch.promote_types(value.dtype, torch.float64))
        rows = affine_rows(wide, wide.new_zeros(()))
        assert rows is not None  # 0 solves it
        if rows[0].shape[0] == rows[0].shape[1]:
            raise OptionError(
                f"{self!r}: only 0 is orthogonal to all of these vectors, and it has no direction. "
                "Leave some of them out."
            )
        object.__setattr__(self, "_rows", Constant(rows[0]))
        object.__setattr__(self, "_start", Constant(a_direction(rows[0])))

    def _check(self, shape: Shape) -> str | None:
        if self.orthogonal_to is not None and shape[-1] != self._rows.value.shape[-1]:
            n = self._rows.value.shape[-1]
            return f"orthogonal_to has vectors of length {n}. Check dim=, or give other vectors."
        if shape[-1] > 0:
            return None
        return "expected at least one number in each vector. Check dim=, or use a larger layer."

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.orthogonal_to is None:
            return self.radius * vectors.unit(x)
        inside = onto_null_space(x, self._rows.like(x))
        return self.radius * vectors.unit(inside, self._start.like(x))

    def _right_inverse(self, y: Tensor) -> Tensor:
        return y

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._forward(x), state

    def _residual(self, y: Tensor) -> Tensor:
        off = (vectors.length(y) - self.radius).abs()
        if self.orthogonal_to is None:
            return off
        wide = precise(y)
        return off + vectors.length(wide @ self._rows.like(wide).mT).to(off.dtype)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        # Entries are rounded to eps, those below the smallest normal number to eps times that.
        info = torch.finfo(dtype)
        return 4 * info.eps * (self.radius + info.tiny * shape[-1] ** 0.5)

    def _project(self, y: Tensor) -> Tensor:
        return self._forward(y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        draw = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        return self._forward(draw)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n = shape[-1] - (0 if self.orthogonal_to is None else len(self._rows.value))
        return (2 if is_complex else 1) * n - 1
