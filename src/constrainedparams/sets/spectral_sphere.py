"""Matrices of a given spectral norm."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..numerics.elementary import precise
from ..numerics.spectral_norm import spectral_norm
from .contract import Shape
from .matrix_constraint import MatrixConstraint
from .radius import check_radius

__all__ = ["SpectralSphere"]


@dataclass(frozen=True, repr=False)
class SpectralSphere(MatrixConstraint):
    """The sphere of the spectral norm: the largest singular value is r.

    y = r x/s, s the largest singular value of x, exact and without state (power iteration with kept
    vectors lets the norm drift, and is off after an assignment). At x = 0, where the map is not
    defined, all entries of y are equal. The gradient in x is orthogonal to x, so steps of an
    optimiser let |x| grow; ``retract`` sets x = y. Where the largest singular value repeats, as at
    an orthogonal y, the sphere has an edge, and the gradient is that of one of its sides.

    Args:
        radius: r > 0.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, k) with n, k >= 1; x has the shape of y. Dtypes: real, complex.
    ``right_inverse`` gives x = y. ``project`` is f (the nearest point in the spectral norm where y
    is outside of the sphere), for 0 the choice above. ``sample`` is f of a normal matrix. The
    residual is how far the norm over r is from 1.

    Raises:
        OptionError: a radius that is not positive and finite.
        ShapeError: no rows or no columns.

    Example:
        >>> import torch
        >>> from constrainedparams import SpectralSphere
        >>> SpectralSphere(2.0)(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        tensor([[2.0000, 0.0000],
                [0.0000, 0.5000]])
    """

    radius: float = 1.0

    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: False)  # not at x = 0, nor where the norm has an edge
    decay_target = property(lambda self: "itself; at x = 0 exactly, all entries r (n k)^-1/2")

    def _check_options(self) -> None:
        check_radius(self.radius)

    def _check(self, shape: Shape) -> str | None:
        if min(shape[-2:]) > 0:
            return None
        return "expected at least one row and one column. Use a larger layer."

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        # The scale may be a constant although it depends on x: y does not depend on it.
        size = x.detach().abs().amax((-2, -1), keepdim=True)
        zero = size < torch.finfo(x.dtype).tiny
        z = x / torch.where(zero, torch.ones_like(size), size) + zero
        tall = z if z.shape[-2] >= z.shape[-1] else z.mH
        return self.radius * z / spectral_norm(tall)

    def _right_inverse(self, y: Tensor) -> Tensor:
        return y

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._forward(x), state

    def _residual(self, y: Tensor) -> Tensor:
        return (torch.linalg.matrix_norm(precise(y), 2) / self.radius - 1).abs()

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 4 * max(shape[-2:]) ** 0.5 * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        return self._forward(y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        draw = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        return self._forward(draw)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * shape[-2] * shape[-1] - 1
