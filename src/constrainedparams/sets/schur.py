"""Matrices with a bounded spectral radius: linear systems in discrete time that are stable."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ConstraintViolation, OptionError
from ..numerics import stability as s
from ..numerics.elementary import precise, with_value
from .contract import Shape
from .matrix_constraint import MatrixConstraint, not_square

__all__ = ["Schur"]

_MARGIN = 0.01


@dataclass(frozen=True, repr=False)
class Schur(MatrixConstraint):
    """Schur stable matrices: all eigenvalues have an absolute value below r, the radius.

    y = r R^-1 x, R the Cholesky factor of I + x^H x = R^H R: P = R^H R solves the equation of
    Stein P - (y/r)^H P (y/r) = I. Every y of the set has one such P and so one x = R y / r: the
    map is one-to-one. Where rounding leaves an eigenvalue outside, y is made smaller by a few
    rounding units.

    Args:
        radius: r > 0, above every |eigenvalue|.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x has the shape of y. Dtypes: real, complex.
    ``right_inverse`` solves the equation of Stein by doubling. The residual is how far the spectral
    radius is above r, as a share of r, with two tolerances added because the bound is outside.
    ``project`` scales a matrix that is off the set to a spectral radius of 0.99 r. ``sample`` is a
    Gaussian matrix scaled to a spectral radius of r u^(1/2), u uniform. ``log_abs_det_jacobian``
    has a derivative where the eigenvalues of y differ.

    Raises:
        OptionError: a radius that is not a positive number.
        ShapeError: not square.
        ConstraintViolation: in ``right_inverse``, also so near to the bound that P is not definite
            in double precision.

    Example:
        >>> import torch
        >>> from constrainedparams import Schur
        >>> y = Schur()(3 * torch.randn(3, 3))
        >>> bool((torch.linalg.eigvals(y).abs() < 1).all())
        True
        >>> Schur(radius=0.5).contains(torch.tensor([[0.4, 100.0], [0.0, 0.4]]))
        tensor(True)
    """

    radius: float = 1.0

    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: True)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "0")

    def _check_options(self) -> None:
        if not (isinstance(self.radius, int | float) and 0 < self.radius < math.inf):
            raise OptionError(f"radius={self.radius!r}: expected a positive number, such as 1.0.")

    def _check(self, shape: Shape) -> str | None:
        return not_square(shape, "For a rectangular weight bound singular values instead.")

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        a = s.contracting(precise(x))
        y = (self.radius * a).to(x.dtype)
        # (A + E)^H P (A + E) - P < 0 holds when 2 |E| |R| |X| + |E|^2 |P| < 1, P = R^H R, and
        # |R|^2 = n + |X|^2 in Frobenius norms.
        size, length = (torch.linalg.matrix_norm(t.detach()) for t in (a, precise(x)))
        root = (x.shape[-1] + length.square()).sqrt()
        error = s.rounding(x) * size
        sure = 2 * error * root * length + (error * root) ** 2 < 0.5
        return with_value(y, s.stable(y.detach(), sure, bound=self.radius, disc=True))

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        low = y.to(dtype)
        if low is y:
            return y
        read = self._read(low.detach())
        unsure = torch.zeros(read.shape[:-2], dtype=torch.bool, device=y.device)
        inside = s.stable(read, unsure, bound=self.radius, disc=True)
        return with_value(low, self._write(inside, tuple(y.shape)))

    def _right_inverse(self, y: Tensor) -> Tensor:
        a = precise(y) / self.radius
        x = s.contracting_inverse(a)
        if not bool(s.returns(s.contracting(x.to(y.dtype)), a, y.dtype)):
            raise ConstraintViolation(
                f"the value is in {self!r} but too near to its bound, or too far from normal, for "
                f"an x in {y.dtype}: its spectral radius is "
                f"{float(s.spectral_radius(y).max()):.6g}, its largest singular value "
                f"{float(torch.linalg.matrix_norm(y, 2).max()):.6g}. Move it inside first: "
                f"`{self!r}.project(1.02 * value)`, or divide it by its largest singular value."
            )
        return x

    def _residual(self, y: Tensor) -> Tensor:
        beyond = s.spectral_radius(y) / self.radius - 1
        outside = beyond.clamp_min(0) + 2 * self._tolerance(tuple(y.shape), y.dtype)
        return torch.where(beyond < 0, torch.zeros_like(beyond), outside)

    def _project(self, y: Tensor) -> Tensor:
        size = s.spectral_radius(y)[..., None, None]
        target = (1 - _MARGIN) * self.radius
        return torch.where(size < self.radius, y, (precise(y) * (target / size)).to(y.dtype))

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        made: Any = {"device": like.device, "generator": generator}
        y = torch.randn(shape, dtype=like.dtype, **made)
        u = torch.rand((*shape[:-2], 1, 1), dtype=like.real.dtype, **made).sqrt()
        size = s.spectral_radius(y).clamp_min(torch.finfo(torch.float64).tiny)[..., None, None]
        return self._project((self.radius * u * precise(y) / size).to(like.dtype))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * shape[-1] ** 2

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        # With dY = dX R^-1, C = X R^-1 and up(H) the upper triangle that H is the Hermitian sum
        # of: R dA R^-1 = dY - up(C^H dY + dY^H C) C, whose determinant is that of H - C^H H C.
        n, k = x.shape[-1], 2 if x.is_complex() else 1
        wide = precise(x)
        a, r = s.contracting(wide), s.contracting_factor(wide)
        scale = k * n * (n * math.log(self.radius) - _mean_log(r))
        return scale + s.log_pairs(torch.linalg.eigvals(a), x.is_complex(), disc=True)


def _mean_log(r: Tensor) -> Tensor:
    """log |det r|, n times the mean of log r_ii."""
    return torch.diagonal(r, dim1=-2, dim2=-1).abs().log().sum(-1)
