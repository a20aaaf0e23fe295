"""Positive definite matrices, with bounds on their eigenvalues when asked for."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import definite as d
from ..numerics.contraction import contraction
from ..numerics.elementary import precise, real_diagonal
from ..numerics.hermitian_exponential import definite_exponential, definite_logarithm
from .contract import Shape
from .matrix_constraint import MatrixConstraint

__all__ = ["PositiveDefinite"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class PositiveDefinite(MatrixConstraint):
    """Symmetric (complex: Hermitian) matrices with all eigenvalues in the open interval (a, b).

    y = a I + L L^H, or with an upper bound y = a I + (b - a) P (I + P)^-1, P = L L^H, where
    L = tril(x, -1) + diag(softplus(diag x)). The upper triangle of x is not read. In float32 L L^H
    fails a Cholesky test from a condition number of 1e7 on; here the diagonal (with bounds: the
    distance from them) is enlarged by 4 n^1/2 rounding units, so that y is definite for every x.
    With ``map="exp"`` y = a I + exp((x + x^H)/2), to which 8 n^1/2 rounding units of the trace are
    added. Turning x turns y, f(U x U^H) = U f(x) U^H, so that a step of an optimiser such as SGD
    does not depend on the basis, which that of L does; it costs several times as much.
    Eigenvalues of x beyond 80 (double precision: 701) count as 80.

    Args:
        lower, upper: a and b, numbers; without an upper bound None.
        map: ``"cholesky"``, or ``"exp"`` where there is no upper bound.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x has the shape of y. Dtypes: real, complex.
    The residual is relative: asymmetry, and how far the smallest eigenvalue of the correlation
    matrix of y - a I (with b: of the eigenvalues divided by |a| + |b|) is below rounding.
    ``right_inverse`` is the Cholesky factorisation, or the logarithm by eigenvalues.
    ``project`` clips eigenvalues to a thousandth inside (of the norm, or of b - a). ``sample`` is
    a I + Wishart with 2n degrees of freedom and mean I, or uniform eigenvalues in a Haar basis.

    Raises:
        OptionError: bounds that are not finite or not in order, another map, exp with two bounds.
        ShapeError: not square.

    Example:
        >>> import torch
        >>> from constrainedparams import PositiveDefinite
        >>> y = PositiveDefinite()(torch.randn(3, 3))
        >>> bool((torch.linalg.eigvalsh(y) > 0).all())
        True
        >>> PositiveDefinite(upper=2.0).contains(3 * torch.eye(3))
        tensor(False)
    """

    lower: float = 0.0
    upper: float | None = None
    map: Literal["cholesky", "exp"] = "cholesky"

    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: self.map == "cholesky")
    smooth = property(lambda self: True)

    @property
    def decay_target(self) -> str:
        if self.map == "exp":
            return "(a + 1) I"
        return "(a + ln(2)^2) I" if self.upper is None else "(a + (b - a) t/(1 + t)) I, t = ln(2)^2"

    @property
    def _size(self) -> float:
        return abs(self.lower) + abs(self.upper or 0.0)

    def _check_options(self) -> None:
        bounds = (self.lower,) if self.upper is None else (self.lower, self.upper)
        known = all(isinstance(v, int | float) and math.isfinite(v) for v in bounds)
        if not known or not bounds[0] < (*bounds, math.inf)[1]:
            raise OptionError(
                f"{self!r}: expected finite numbers with lower < upper. For no upper bound leave "
                "upper out."
            )
        if self.map not in (("cholesky", "exp") if self.upper is None else ("cholesky",)):
            raise OptionError(
                f"map={self.map!r}: expected 'cholesky', or 'exp' for a set without upper bound."
            )

    def _check(self, shape: Shape) -> str | None:
        if shape[-2] == shape[-1]:
            return None
        return "expected square matrices. For a rectangular weight use a set such as Orthogonal."

    def _inner(self, y: Tensor) -> tuple[float, float, float]:
        """Relative slack, and the bounds moved in by it."""
        slack = 4 * y.shape[-1] ** 0.5 * torch.finfo(y.dtype).eps
        return slack, self.lower + slack * self._size, (self.upper or 0.0) - slack * self._size

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        one, (slack, low, high) = d.identity_like(x), self._inner(x)
        if self.map == "exp":
            return definite_exponential(x, 2 * slack) + low * one
        factor = d.factor(x)
        if self.upper is None:
            return d.gram(factor) * (1 + slack * one) + low * one
        # P (I + P)^-1 = K K^H, K = L (I + L^H L)^(-H/2): unlike a solve with I + P it stays within
        # rounding of [0, 1] for every L.
        return low * one + (high - low) * d.gram(contraction(factor)[0])

    def _right_inverse(self, y: Tensor) -> Tensor:
        h, (slack, low, high) = d.hermitian(precise(y)), self._inner(y)
        one = d.identity_like(h)
        if self.map == "exp":
            return definite_logarithm(h - low * one, 2 * slack)
        if self.upper is not None:
            reach = slack * self._size / (high - low)
            return d.factor_inverse(d.root_of_odds((h - low * one) / (high - low), reach), y.dtype)
        p = (h - low * one) / (1 + slack * one)
        weight = real_diagonal(p).abs() + self._size
        return d.factor_inverse(d.cholesky(p, 1.5 * slack * weight), y.dtype)

    def _residual(self, y: Tensor) -> Tensor:
        wide, n = precise(y), y.shape[-1]
        h, one = d.hermitian(wide), d.identity_like(wide)
        p = h - self.lower * one
        weight = real_diagonal(p).clamp_min(0) + abs(self.lower)
        if self.upper is not None:
            weight = torch.full_like(weight, self._size)
        gap = d.definiteness(p, weight)
        if self.upper is not None:
            gap = torch.minimum(gap, d.definiteness(self.upper * one - h, weight))
        # Definite beyond rounding means a gap above the tolerance: a gap of 0 is outside.
        beyond = self._tolerance(tuple(y.shape), y.dtype) + n**0.5 * torch.finfo(h.dtype).eps
        asymmetry = d.scaled(wide - h, weight).abs().flatten(-2).sum(-1) / max(n, 1)
        return torch.maximum((beyond - gap).clamp_min(0), asymmetry)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 2 * shape[-1] ** 0.5 * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        h = d.hermitian(y)
        off = self._residual(h) > self._tolerance(tuple(y.shape), y.dtype)
        one = d.identity_like(precise(h))
        p = precise(h) - self.lower * one
        size = torch.linalg.matrix_norm(p).unsqueeze(-1) + abs(self.lower)
        low: Tensor = _MARGIN * torch.where(size > 0, size, torch.ones_like(size))
        width = None if self.upper is None else self.upper - self.lower
        high = None if width is None else torch.full_like(low, (1 - _MARGIN) * width)
        low = low if width is None else torch.full_like(low, _MARGIN * width)
        moved = (d.clip_eigenvalues(p, low, high) + self.lower * one).to(y.dtype)
        return torch.where(off[..., None, None], moved, h)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.upper is None:
            y = d.wishart(shape, like, generator)
            return y + self.lower * d.identity_like(y)
        y = (self.upper - self.lower) * d.uniform_spectrum(shape, like, generator)
        return self._project(y + self.lower * d.identity_like(y))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n = shape[-1]
        return n * n if is_complex else n * (n + 1) // 2

    def _factorization(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        if (self.lower, self.upper, self.map) != (0.0, None, "cholesky"):
            return super()._factorization(x)
        return d.cholesky_factors(d.factor(x))

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.map == "exp":
            return super()._log_abs_det_jacobian(x)
        n, factor, (slack, low, high) = x.shape[-1], d.factor(x), self._inner(x)
        if self.upper is None:
            return d.log_det_gram(factor, x) + n * math.log1p(slack)
        # dC = (I + P)^-1 dP (I + P)^-1, and y = low I + (high - low) C.
        each = 2 * n if x.is_complex() else n + 1
        entries = self._dimension((n, n), x.is_complex())
        volume = entries * math.log(high - low) - each * d.log_det_one_plus_gram(factor)
        return d.log_det_gram(factor, x) + volume
