"""Positive definite matrices, with bounds on their eigenvalues when asked for."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import definite as d
from ..numerics.elementary import precise
from .contract import MatrixConstraint, Shape

__all__ = ["PositiveDefinite"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class PositiveDefinite(MatrixConstraint):
    """Symmetric (complex: Hermitian) matrices with all eigenvalues in (a, b).

    y = a I + L L^H, or with an upper bound y = a I + (b - a) P (I + P)^-1, P = L L^H, where
    L = tril(x, -1) + diag(softplus(diag x)). The upper triangle of x is not read. In float32 L L^H
    fails a Cholesky test from a condition number of 1e7 on; here the diagonal (with bounds: the
    distance from them) is enlarged by 4 n^1/2 rounding units, so that y is definite for every x.

    Args:
        lower: a, a number.
        upper: b > a, or None for no upper bound.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x has the shape of y. Dtypes: real, complex.
    The residual is relative: asymmetry, and how far the smallest eigenvalue of the correlation
    matrix of y - a I (with b: of the eigenvalues divided by b - a) is below rounding. ``project``
    moves eigenvalues that are out to a thousandth inside (of the largest, or of b - a). ``sample``
    is a I + Wishart with 2n degrees of freedom and mean I, or uniform eigenvalues in a Haar basis.

    Raises:
        OptionError: bounds that are not finite or not in order.
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

    has_complex: ClassVar[bool] = True

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: True)
    smooth = property(lambda self: True)

    @property
    def decay_target(self) -> str:
        return "(a + ln(2)^2) I" if self.upper is None else "(a + (b - a) t/(1 + t)) I, t = ln(2)^2"

    def _check_options(self) -> None:
        upper = math.inf if self.upper is None else self.upper
        known = all(isinstance(v, int | float) for v in (self.lower, upper))
        if not known or not self.lower < upper or not math.isfinite(self.lower):
            raise OptionError(
                f"{self!r}: expected numbers lower < upper, both finite. For no upper bound leave "
                "upper out."
            )
        if self.upper is not None and not math.isfinite(self.upper):
            raise OptionError(f"{self!r}: upper is not finite. For no upper bound leave it out.")

    def _check(self, shape: Shape) -> str | None:
        if shape[-2] == shape[-1]:
            return None
        return "expected square matrices. For a rectangular weight take its Gram matrix or Orthogonal."

    def _slack(self, x: Tensor) -> float:
        return 4 * x.shape[-1] ** 0.5 * torch.finfo(x.dtype).eps

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        one, slack, factor = d.identity_like(x), self._slack(x), d.factor(x)
        if self.upper is None:
            return d.gram(factor) * (1 + slack * one) + (self.lower + slack * abs(self.lower)) * one
        low, high = self._inner_bounds(slack)
        return low * one + (high - low) * d.contraction(factor)

    def _inner_bounds(self, slack: float) -> tuple[float, float]:
        """Bounds moved in by rounding, relative to their size and distance."""
        assert self.upper is not None
        inwards = slack * (abs(self.lower) + abs(self.upper))
        return self.lower + inwards, self.upper - inwards

    def _right_inverse(self, y: Tensor) -> Tensor:
        slack, h = self._slack(y), d.hermitian(precise(y))
        one = d.identity_like(h)
        if self.upper is None:
            p = (h - (self.lower + slack * abs(self.lower)) * one) / (1 + slack * one)
        else:
            low, high = self._inner_bounds(slack)
            c = (h - low * one) / (high - low)
            e = torch.linalg.eigvalsh(c)
            inside = ((e > 0) & (e < 1)).all(-1)[..., None, None]
            reach = 2 * slack * (abs(self.lower) + abs(self.upper)) / (high - low)
            c = torch.where(inside, c, (c + reach * one) / (1 + 2 * reach))
            p = d.hermitian(torch.linalg.solve(one.to(c.dtype) - c, c))
        weight = torch.diagonal(p, dim1=-2, dim2=-1).real.abs() + abs(self.lower)
        return d.factor_inverse(d.cholesky(p, 1.5 * slack * weight), y.dtype)

    def _residual(self, y: Tensor) -> Tensor:
        h, skew = d.hermitian(precise(y)), 0.5 * (precise(y) - precise(y).mH)
        n, one = y.shape[-1], d.identity_like(h)
        p = h - self.lower * one
        weight = torch.diagonal(p, dim1=-2, dim2=-1).real.clamp_min(0) + abs(self.lower)
        if self.upper is not None:
            weight = torch.full_like(weight, abs(self.lower) + abs(self.upper))
        gap = d.smallest_eigenvalue(d.scaled(p, weight))
        if self.upper is not None:
            gap = torch.minimum(gap, d.smallest_eigenvalue(d.scaled(self.upper * one - h, weight)))
        # Definite beyond rounding means a gap above the tolerance: 0 itself is not in the set.
        beyond = self._tolerance(tuple(y.shape), y.dtype) + n**0.5 * torch.finfo(h.dtype).eps
        asymmetry = d.scaled(skew, weight).abs().flatten(-2).sum(-1) / max(n, 1)
        return torch.maximum((beyond - gap).clamp_min(0), asymmetry)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 2 * shape[-1] ** 0.5 * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        h = d.hermitian(y)
        off = self._residual(h) > self._tolerance(tuple(y.shape), y.dtype)
        wide = precise(h)
        e, u = torch.linalg.eigh(wide - self.lower * d.identity_like(wide))
        if self.upper is None:
            size = e.abs().amax(-1, keepdim=True) + abs(self.lower)
            e = torch.maximum(e, _MARGIN * torch.where(size > 0, size, torch.ones_like(size)))
        else:
            width = self.upper - self.lower
            e = e.clamp(_MARGIN * width, (1 - _MARGIN) * width)
        moved = d.hermitian((u * (e + self.lower).unsqueeze(-2)) @ u.mH).to(y.dtype)
        return torch.where(off[..., None, None], moved, h)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        *batch, n, _ = shape
        made = {"dtype": like.dtype, "device": like.device, "generator": generator}
        if self.upper is None:
            g = torch.randn((*batch, n, 2 * n), **made) / math.sqrt(2 * max(n, 1))
            return d.gram(g) + self.lower * d.identity_like(g @ g.mH)
        q, _ = torch.linalg.qr(torch.randn((*batch, n, n), **made))
        made["dtype"] = like.real.dtype
        e = self.lower + (self.upper - self.lower) * torch.rand((*batch, n), **made)
        return self._project(d.hermitian((q * e.unsqueeze(-2)) @ q.mH))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n = shape[-1]
        return n * n if is_complex else n * (n + 1) // 2

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        n, slack, factor = x.shape[-1], self._slack(x), d.factor(x)
        entries = self._dimension((n, n), x.is_complex())
        found = d.log_det_gram(factor, x)
        if self.upper is None:
            return found + n * math.log1p(slack)
        # dC = (I + P)^-1 dP (I + P)^-1, and y = low I + (high - low) C.
        low, high = self._inner_bounds(slack)
        each = 2 * n if x.is_complex() else n + 1
        return found + entries * math.log(high - low) - each * d.log_det_one_plus_gram(factor)
