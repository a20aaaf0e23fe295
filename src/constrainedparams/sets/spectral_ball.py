"""Contractions: matrices of spectral norm below a radius."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..numerics.contraction import contraction, expansion
from ..numerics.elementary import precise, real_diagonal
from ..numerics.orthogonal import haar
from .contract import Shape
from .matrix_constraint import MatrixConstraint
from .radius import check_radius

__all__ = ["SpectralBall"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class SpectralBall(MatrixConstraint):
    """The open ball of the spectral norm: matrices with all singular values below r.

    y = r x L^-H with L L^H = I + x^H x (wide x: the conjugate transpose of that of x^H): singular
    values s of x become r s/(1 + s^2)^1/2. Exact, one-to-one, without power iteration or SVD, and
    smooth where singular values repeat. r is taken 4 n^1/2 rounding units smaller, so that y is
    inside for every x. A layer with such a weight has Lipschitz constant below r.

    Args:
        radius: r > 0.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, k); x has the shape of y. Dtypes: real, complex.
    ``right_inverse`` is x = y R^-1, R^H R = r^2 I - y^H y up to scale, in double precision.
    ``project`` clips singular values to 0.999 r where one is r or more (nearest but for this
    margin). ``sample`` is uniform: the first n rows of k Haar distributed columns of length
    n + k + 1 (complex: n + k). The residual is how far the norm over r is above 1, less rounding.

    Raises:
        OptionError: a radius that is not positive and finite.

    Example:
        >>> import torch
        >>> from constrainedparams import SpectralBall
        >>> SpectralBall(2.0)(torch.tensor([[0.75, 0.0], [0.0, 0.0]]))
        tensor([[1.2000, 0.0000],
                [0.0000, 0.0000]])
        >>> bool(torch.linalg.matrix_norm(SpectralBall()(100 * torch.randn(5, 3)), 2) < 1)
        True
    """

    radius: float = 1.0

    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: True)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "0")

    def _check_options(self) -> None:
        check_radius(self.radius)

    def _inner(self, y: Tensor) -> float:
        """The radius that is reached; a little smaller, so that rounding stays inside."""
        return self.radius * (1 - 2 * self._tolerance(tuple(y.shape), y.dtype))

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if x.shape[-2] < x.shape[-1]:
            return self._forward(x.mH).mH
        return self._inner(x) * contraction(x)[0]

    def _right_inverse(self, y: Tensor) -> Tensor:
        if y.shape[-2] < y.shape[-1]:
            return self._right_inverse(y.mH).mH
        return expansion(precise(y) / self._inner(y), self._tolerance(tuple(y.shape), y.dtype) / 4)

    def _residual(self, y: Tensor) -> Tensor:
        size = torch.linalg.matrix_norm(precise(y), 2) if y.numel() else y.real.sum((-2, -1))
        return (size / self.radius - 1 + 2 * self._tolerance(tuple(y.shape), y.dtype)).clamp_min(0)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 2 * max(min(shape[-2:]), 1) ** 0.5 * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        u, s, vh = torch.linalg.svd(precise(y), full_matrices=False)
        s = s.clamp_max((1 - _MARGIN) * self.radius)
        return torch.where(off[..., None, None], ((u * s.unsqueeze(-2)) @ vh).to(y.dtype), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        *batch, n, k = shape
        made = (*batch, n + k + (0 if like.is_complex() else 1), k)
        draw = torch.randn(made, dtype=like.dtype, device=like.device, generator=generator)
        return self._project(self.radius * haar(draw)[..., :n, :])

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * shape[-2] * shape[-1]

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        n, k = sorted(x.shape[-2:], reverse=True)
        l = contraction(x if x.shape[-2] == n else x.mH)[1]
        logs = real_diagonal(l).log()
        i = torch.arange(1, k + 1, dtype=logs.dtype, device=x.device)
        # x^H x -> y^H y = I - M M^H, M = L^-1, by way of (I + x^H x)^-1 = M^H M; what is left of x
        # and y is the same Stiefel matrix times a rotation that depends on x^H x alone.
        powers = 2 * n + 4 * k + 2 - 4 * i if x.is_complex() else n + 2 * k + 2 - 2 * i
        volume = self._dimension((n, k), x.is_complex()) * math.log(self._inner(x))
        return volume - (powers * logs).sum(-1)
