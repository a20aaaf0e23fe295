"""Matrices with eigenvalues left of a line: linear systems in continuous time that are stable."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ConstraintViolation, OptionError
from ..numerics import definite as d
from ..numerics import stability as s
from ..numerics.elementary import precise, with_value
from .contract import Shape
from .matrix_constraint import MatrixConstraint, not_square

__all__ = ["Hurwitz"]

_MARGIN = 0.01


@dataclass(frozen=True, repr=False)
class Hurwitz(MatrixConstraint):
    """Hurwitz stable matrices: all eigenvalues have a real part below -alpha.

    y = (S - I) L L^H - alpha I, L the lower triangle of x with diagonal softplus(diag x), S the
    skew-Hermitian matrix of its strict upper triangle (and imaginary diagonal): P = (L L^H)^-1
    solves the equation of Lyapunov A P + P A^H = -2 I, A = y + alpha I. Every y of the set has one
    such P and so one x: the map is one-to-one, with no more numbers than y. Where rounding leaves
    an eigenvalue outside, y - t I takes the place of y, t a few rounding units.

    Args:
        alpha: the rate at which exp(t y) decays, of either sign.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x has the shape of y. Dtypes: real, complex.
    ``right_inverse`` solves the equation of Lyapunov by doubling. The residual is how far the
    largest real part is above -alpha, as a share of the norm of y (at least |alpha|), with two
    tolerances added because the bound is outside. ``project`` subtracts from a matrix that is off
    the set the multiple of I that moves it a hundredth of that size inside. ``sample`` has S
    Gaussian and L L^H Wishart with 2n degrees of freedom and mean I. ``log_abs_det_jacobian`` has
    a derivative where the eigenvalues of y differ.

    Raises:
        OptionError: an alpha that is not a finite number.
        ShapeError: not square.
        ConstraintViolation: in ``right_inverse``, also so near to the bound that P is not definite
            in double precision.

    Example:
        >>> import torch
        >>> from constrainedparams import Hurwitz
        >>> y = Hurwitz(alpha=0.1)(torch.randn(3, 3, dtype=torch.float64))
        >>> bool((torch.linalg.eigvals(y).real < -0.1).all())
        True
        >>> Hurwitz().contains(torch.tensor([[-1.0, 100.0], [0.0, -1.0]]))
        tensor(True)
    """

    alpha: float = 0.0

    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: True)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "-(ln(2)^2 + alpha) I")

    def _check_options(self) -> None:
        if not (isinstance(self.alpha, int | float) and math.isfinite(self.alpha)):
            raise OptionError(f"alpha={self.alpha!r}: expected a finite number, such as 0.0.")

    def _check(self, shape: Shape) -> str | None:
        return not_square(shape, "A linear system has as many equations as states.")

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        a, _, l = s.decaying(precise(x))
        y = (a - self.alpha * d.identity_like(a)).to(x.dtype)
        # (A + E) P + P (A + E)^H < 0 holds when |E| |P| < 1, P = L^-H L^-1.
        one = torch.eye(x.shape[-1], dtype=l.dtype, device=x.device).expand(x.shape)
        inverse = torch.linalg.solve_triangular(l.detach(), one, upper=False)
        size = torch.linalg.matrix_norm(a.detach()) + abs(self.alpha)
        sure = s.rounding(x) * size * torch.linalg.matrix_norm(inverse).square() < 0.5
        return with_value(y, s.stable(y.detach(), sure, bound=-self.alpha, disc=False))

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        low = y.to(dtype)
        if low is y:
            return y
        read = self._read(low.detach())
        unsure = torch.zeros(read.shape[:-2], dtype=torch.bool, device=y.device)
        inside = s.stable(read, unsure, bound=-self.alpha, disc=False)
        return with_value(low, self._write(inside, tuple(y.shape)))

    def _right_inverse(self, y: Tensor) -> Tensor:
        a = precise(y) + self.alpha * d.identity_like(precise(y))
        x = s.decaying_inverse(a)
        if not bool(s.returns(s.decaying(x.to(y.dtype))[0], a, y.dtype)):
            real, largest = s.abscissa(y).max(), torch.linalg.matrix_norm(y, 2).max()
            raise ConstraintViolation(
                f"the value is in {self!r} but too near to its bound, or too far from normal, for "
                f"an x in {y.dtype}: its largest real part is {float(real):.6g}, its largest "
                f"singular value {float(largest):.6g}. Move it inside first, for example by "
                "`value - 0.01 * value.norm() * torch.eye(len(value))`, or by all of its norm "
                "where that is the larger by far."
            )
        return x

    def _size(self, y: Tensor) -> Tensor:
        size = torch.linalg.matrix_norm(precise(y)) + abs(self.alpha)
        return torch.where(size > 0, size, torch.ones_like(size))

    def _residual(self, y: Tensor) -> Tensor:
        beyond = s.abscissa(y) + self.alpha
        outside = beyond.clamp_min(0) / self._size(y)
        outside = outside + 2 * self._tolerance(tuple(y.shape), y.dtype)
        return torch.where(beyond < 0, torch.zeros_like(beyond), outside)

    def _project(self, y: Tensor) -> Tensor:
        beyond = s.abscissa(y) + self.alpha
        shift = (beyond + _MARGIN * self._size(y))[..., None, None] * d.identity_like(precise(y))
        off = (beyond >= 0)[..., None, None]
        return torch.where(off, (precise(y) - shift).to(y.dtype), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        made: Any = {"dtype": like.dtype, "device": like.device, "generator": generator}
        one = d.identity_like(like.new_empty(shape))
        skew = s.skew_above(torch.randn(shape, **made)) - one
        return self._project(skew @ d.wishart(shape, like, generator) - self.alpha * one)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * shape[-1] ** 2

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        # In L^H dA L^-H = L^H dS L + B H, with B = L^H (S - I) L and H = L^-1 d(L L^H) L^-H, only
        # the second part is Hermitian beside skew-Hermitian: (B H + H B^H) / 2. The powers of
        # det L in the maps to H and from dS leave (det L)^-2, none for complex x; each pair of
        # entries above and below the diagonal is twice its two parts (complex: four times).
        n, l = x.shape[-1], d.factor(x)
        pairs = n * (n - 1) if x.is_complex() else 0.5 * n * (n - 1)
        volume = d.log_det_gram(l, x) + pairs * math.log(2)
        if not x.is_complex():
            volume = volume - 2 * torch.diagonal(l, dim1=-2, dim2=-1).log().sum(-1)
        eigenvalues = torch.linalg.eigvals(s.decaying(precise(x))[0])
        return volume + s.log_pairs(eigenvalues, x.is_complex(), disc=False)
