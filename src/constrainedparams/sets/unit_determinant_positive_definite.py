"""Positive definite matrices of determinant 1."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..numerics import definite as d
from ..numerics.contraction import contraction
from ..numerics.elementary import precise, real_diagonal
from ..numerics.vectors import length
from .contract import Shape
from .matrix_constraint import MatrixConstraint, not_square

__all__ = ["UnitDeterminantPositiveDefinite"]


@dataclass(frozen=True, repr=False)
class UnitDeterminantPositiveDefinite(MatrixConstraint):
    """Symmetric (complex: Hermitian) positive definite matrices with determinant 1.

    y = P / det(P)^(1/n), P = L L^H with L = tril(x, -1) + diag(softplus(diag x)) and its diagonal
    enlarged by 4 n^1/2 rounding units, as in :class:`PositiveDefinite`: y is definite for every x,
    and no exponential overflows. The scale of P is free; ``retract`` sets det P = 1. Only the lower
    triangle of x is read.

    Args:
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x has the shape of y. Dtypes: real, complex.
    ``right_inverse`` is the Cholesky factorisation; what rounding took of the determinant is put
    back into the small eigenvalues. ``project`` gives eigenvalues that are not positive the value
    with which det y = 1, at most the largest one (for y without positive eigenvalues at most 1),
    and divides by det^(1/n). ``sample`` is Wishart with 2n degrees of freedom, divided by that.
    The residual is that of :class:`PositiveDefinite`, or if larger |log det y| / |C^-1|_F: to first
    order the change of the correlation matrix C of y that makes the determinant 1.

    Raises:
        ShapeError: not square.

    Example:
        >>> import torch
        >>> from constrainedparams import UnitDeterminantPositiveDefinite
        >>> y = UnitDeterminantPositiveDefinite()(torch.randn(4, 4))
        >>> round(float(torch.linalg.det(y)), 4)
        1.0
        >>> UnitDeterminantPositiveDefinite().project(torch.diag(torch.tensor([2.0, 8.0])))
        tensor([[0.5000, 0.0000],
                [0.0000, 2.0000]])
    """

    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "I")

    def _check(self, shape: Shape) -> str | None:
        return not_square(shape, "For a rectangular weight use a set such as Orthogonal.")

    def _slack(self, y: Tensor) -> float:
        return 4 * y.shape[-1] ** 0.5 * torch.finfo(y.dtype).eps

    def _scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """L, and the number that L L^H is multiplied by."""
        l, slack, n = d.factor(x), self._slack(x), max(x.shape[-1], 1)
        # y does not depend on the scale of L; without it the logarithms below are small.
        scale = real_diagonal(l.detach()).log().mean(-1).exp()
        l = l / scale[..., None, None]
        root = length(l).unsqueeze(-1)
        # log det(C + slack I) of C = L L^H with unit diagonal, by way of I + L L^H / slack: a
        # factorisation of the matrix itself would lose the digits of its small eigenvalues.
        k = contraction(precise(l / root).mH / slack**0.5)[1]
        logs = (slack**0.5 * root.squeeze(-1) * real_diagonal(k)).log()
        mean = 2 * logs.sum(-1) / n
        return l, torch.exp(-mean).to(root.dtype)[..., None, None]

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        l, scale = self._scaled(x)
        return scale * d.gram(l) * (1 + self._slack(x) * d.identity_like(x))

    def _factorization(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        l, scale = self._scaled(x)
        return {"cholesky": scale.sqrt() * l, "logdet": l.real.new_zeros(l.shape[:-2])}

    def _spectrum(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """diag(h), eigenvalues and vectors of the correlation matrix of h, and log det h."""
        tiny = torch.finfo(h.dtype).tiny
        weight = real_diagonal(h).clamp_min(tiny)
        e, u = torch.linalg.eigh(d.scaled(h, weight))
        return weight, e, u, (e.clamp_min(tiny).log() + weight.log()).sum(-1)

    def _right_inverse(self, y: Tensor) -> Tensor:
        slack = self._slack(y)
        weight, e, u, _ = self._spectrum(d.hermitian(precise(y)))
        e = e.clamp_min(slack)
        log_det = (e.log() + weight.log()).sum(-1, keepdim=True)
        share = e**-2 / (e**-2).sum(-1, keepdim=True)
        e = (1 + slack) * e * torch.exp(-share * log_det) - slack
        roots = e.clamp_min(slack**2).sqrt()
        scale = (weight / (1 + slack)).sqrt()
        r = torch.linalg.qr(roots.unsqueeze(-1) * u.mH * scale.unsqueeze(-2))[1]
        l = (torch.diagonal(r, dim1=-2, dim2=-1).sgn().conj().unsqueeze(-1) * r).mH
        return d.factor_inverse(l, y.dtype)

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._right_inverse(self._forward(x)), state

    def _residual(self, y: Tensor) -> Tensor:
        wide, n = precise(y), y.shape[-1]
        h = d.hermitian(wide)
        weight, e, _, log_det = self._spectrum(h)
        if n == 0:
            return log_det
        beyond = self._tolerance(tuple(y.shape), y.dtype) + n**0.5 * torch.finfo(h.dtype).eps
        off = log_det.abs() / e.clamp_min(1e-100).reciprocal().square().sum(-1).sqrt()
        asymmetry = d.scaled(wide - h, weight).abs().flatten(-2).sum(-1) / n
        return torch.maximum(torch.maximum(off, beyond - e[..., 0]), asymmetry).clamp_min(0)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 8 * shape[-1] ** 0.5 * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        if y.shape[-1] == 0:
            return y
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        e, u = torch.linalg.eigh(d.hermitian(precise(y)))
        good = e > 0
        logs = torch.where(good, e, torch.ones_like(e)).log()
        fill = -logs.sum(-1, keepdim=True) / (~good).sum(-1, keepdim=True).clamp_min(1)
        logs = torch.where(good, logs, torch.minimum(fill, logs.amax(-1, keepdim=True)))
        e = torch.exp(logs - logs.mean(-1, keepdim=True))
        moved = d.hermitian((u * e.unsqueeze(-2)) @ u.mH).to(y.dtype)
        return torch.where(off[..., None, None], moved, y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        y = d.wishart(shape, like, generator)
        log_det = self._spectrum(precise(y))[-1]
        return y * torch.exp(-log_det / max(shape[-1], 1))[..., None, None].to(y.real.dtype)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n = shape[-1]
        return max((n * n if is_complex else n * (n + 1) // 2) - 1, 0)
