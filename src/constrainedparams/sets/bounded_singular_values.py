"""Matrices with singular values between two bounds."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import definite as d
from ..numerics import orthogonal as maps
from ..numerics.contraction import contraction
from ..numerics.elementary import precise
from .contract import Shape
from .matrix_constraint import MatrixConstraint

__all__ = ["BoundedSingularValues"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class BoundedSingularValues(MatrixConstraint):
    """Matrices with all singular values in the open interval (a, b), 0 <= a < b.

    The polar decomposition y = Q (a I + (b - a) C), without an SVD: Q = polar exp(S) I_{n x k} with
    the entries of x below the diagonal as in :class:`Orthogonal`, C = P (I + P)^-1, P = L L^H, with
    L^H = triu(x, 1) + diag(softplus(diag x)) as in :class:`PositiveDefinite`. Every entry of x is
    read once (wide y: the conjugate transpose). The state ``polar`` is the polar factor of the last
    y of ``right_inverse`` or ``retract``: its singular values are 1. With bounds near 1 y is almost
    orthogonal.

    Args:
        lower, upper: a and b, numbers.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, k); x and ``polar`` have the shape of y. Dtypes: real, complex.
    ``project`` clips singular values to a thousandth of b - a inside where one is off (nearest but
    for this margin). ``sample`` has Haar distributed singular vectors and singular values uniform
    in (a, b). The residual is how far a singular value over b is outside, less rounding.

    Raises:
        OptionError: bounds that are not finite, not in order, or below 0.

    Example:
        >>> import torch
        >>> from constrainedparams import BoundedSingularValues
        >>> s = torch.linalg.svdvals(BoundedSingularValues(0.9, 1.1)(10 * torch.randn(5, 3)))
        >>> bool((s > 0.9).all() and (s < 1.1).all())
        True
    """

    lower: float
    upper: float

    state_names: ClassVar[tuple[str, ...]] = ("polar",)
    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the component of the start (square real), else the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "(a + (b - a) t/(1 + t)) polar, t = ln(2)^2")

    def _check_options(self) -> None:
        known = all(
            isinstance(v, int | float) and math.isfinite(v) for v in (self.lower, self.upper)
        )
        if not known or not 0 <= self.lower < self.upper:
            raise OptionError(
                f"{self!r}: expected finite numbers with 0 <= lower < upper. For singular values "
                "from 0 on use SpectralBall."
            )

    def _bounds(self, y: Tensor) -> tuple[float, float]:
        """The bounds moved in by what covers rounding."""
        slack = 2 * self._tolerance(tuple(y.shape), y.dtype) * self.upper
        return self.lower + slack, self.upper - slack

    def _forward(self, x: Tensor, polar: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if x.shape[-2] < x.shape[-1]:
            return self._forward(x.mH, None if polar is None else polar.mH).mH
        k, (low, high) = x.shape[-1], self._bounds(x)
        start = None if polar is None else maps.newton_schulz(polar, 2)
        q = maps.exponential_from(start, x)
        c = d.gram(contraction(d.factor(x[..., :k, :].mH))[0])
        return low * q + (high - low) * (q @ c)

    def _right_inverse(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if y.shape[-2] < y.shape[-1]:
            x, state = self._right_inverse(y.mH)
            return x.mH, {"polar": state["polar"].mH}
        (n, k), (low, high) = y.shape[-2:], self._bounds(y)
        u, s, vh = torch.linalg.svd(precise(y), full_matrices=False)
        c = (vh.mH * ((s - low) / (high - low)).unsqueeze(-2)) @ vh
        reach = self._tolerance(tuple(y.shape), y.dtype) * self.upper / (high - low)
        x = d.factor_inverse(d.root_of_odds(d.hermitian(c), reach), y.dtype).mH
        return torch.nn.functional.pad(x, (0, 0, 0, n - k)), {"polar": maps.newton_schulz(u @ vh)}

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._right_inverse(self._forward(x, **state))

    def _residual(self, y: Tensor) -> Tensor:
        if y.numel() == 0:
            return y.real.sum((-2, -1))
        s = torch.linalg.svdvals(precise(y))
        off = torch.maximum(self.lower - s[..., -1], s[..., 0] - self.upper) / self.upper
        return (off + 2 * self._tolerance(tuple(y.shape), y.dtype)).clamp_min(0)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        # As of a matrix with orthonormal columns, whose polish leaves as much.
        return 2 * max(min(shape[-2:]), 1) ** 0.5 * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        u, s, vh = torch.linalg.svd(precise(y), full_matrices=False)
        margin = _MARGIN * (self.upper - self.lower)
        s = s.clamp(self.lower + margin, self.upper - margin)
        return torch.where(off[..., None, None], ((u * s.unsqueeze(-2)) @ vh).to(y.dtype), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        *batch, n, k = shape
        tall = (*batch, max(n, k), min(n, k))
        draw = torch.randn(tall, dtype=like.dtype, device=like.device, generator=generator)
        spread = d.uniform_spectrum((*batch, tall[-1], tall[-1]), like, generator)
        s = self.lower * d.identity_like(spread) + (self.upper - self.lower) * spread
        y = maps.haar(draw) @ s
        return self._project(y if n >= k else y.mH)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * shape[-2] * shape[-1]
