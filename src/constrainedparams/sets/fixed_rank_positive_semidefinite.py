"""Positive semidefinite matrices of a given rank."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..numerics import semidefinite as s
from ..numerics.definite import gram, hermitian
from ..numerics.elementary import precise
from ..numerics.ranked import core, core_inverse, range_basis
from .contract import Shape
from .factored import Factored

__all__ = ["FixedRankPositiveSemidefinite"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class FixedRankPositiveSemidefinite(Factored):
    """Symmetric (complex: Hermitian) matrices with ``rank`` eigenvalues above 0, the others 0.

    y = Q S Q^H: Q = exp([[0, -K^H], [K, 0]]) I_{n x r}, moved to ``left``, the geodesic of
    :class:`Grassmann` with K the rows of x from r on, and S = P + s tr(P) I with P = L L^H, L the
    factor of the upper r x r block of x as in :class:`PositiveDefinite`; s = 8 n^1/2 rounding units
    keeps the rank of y for every x. Every number of x that is read counts once. The state ``left``
    has a basis of the range of the last y of ``right_inverse`` or ``retract`` in its first r
    columns, and zeros in the others.

    Args:
        rank: r, from 1 to n.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x is (..., n, rank), as in :class:`PositiveSemidefinite`, and ``left`` has
    the shape of y. Dtypes: real, complex.
    ``right_inverse`` is the eigendecomposition. ``project`` keeps the ``rank`` largest eigenvalues,
    raised to a thousandth of the largest one (for y without positive eigenvalues to 0.001); nearest
    but for this margin. ``sample`` is Wishart with ``rank`` degrees of freedom and mean I. The
    residual is relative to |y|_F: the distance from rank r, or by how much eigenvalue r is below
    rounding.

    Raises:
        OptionError: a rank that is not a whole number above 0.
        ShapeError: not square, or smaller than the rank.

    Example:
        >>> import torch
        >>> from constrainedparams import FixedRankPositiveSemidefinite
        >>> y = FixedRankPositiveSemidefinite(2)(torch.randn(5, 2))
        >>> int(torch.linalg.matrix_rank(y, hermitian=True))
        2
    """

    rank: int = field()  # required here

    state_names: ClassVar[tuple[str, ...]] = ("left",)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "ln(2)^2 Q Q^H, Q Q^H the projector on the range of left")

    def _slack(self, y: Tensor, n: int) -> float:
        return 8 * n**0.5 * torch.finfo(y.dtype).eps

    def _forward(self, x: Tensor, left: Tensor | None = None) -> Tensor:  # type: ignore[override]
        parts = self._factorization(x, left)
        return hermitian(parts["q"] @ parts["core"] @ parts["q"].mH)

    def _factorization(  # type: ignore[override]
        self, x: Tensor, left: Tensor | None = None
    ) -> dict[str, Tensor]:
        n, r = x.shape[-2:]
        inner = core(x[..., :r, :], self._slack(x, n))
        return {"q": range_basis(left, x, r), "core": inner}

    def _right_inverse(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        n, r = y.shape[-1], self.rank
        e, u = torch.linalg.eigh(hermitian(precise(y)))
        top = core_inverse(e[..., -r:], self._slack(y, n), y)
        left = torch.nn.functional.pad(u[..., -r:], (0, n - r))
        return torch.nn.functional.pad(top, (0, 0, 0, n - r)), {"left": left}

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._right_inverse(self._forward(x, **state))

    def _residual(self, y: Tensor) -> Tensor:
        off, e = s.indefiniteness(y, self.rank)
        beyond = 2 * self._tolerance(tuple(y.shape), y.dtype)
        return torch.maximum(off, beyond - e[..., -self.rank])

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        e, u = torch.linalg.eigh(hermitian(precise(y)))
        u, e = u[..., -self.rank :], e[..., -self.rank :]
        largest = torch.where(e[..., -1:] > 0, e[..., -1:], torch.ones_like(e[..., -1:]))
        roots = torch.maximum(e, _MARGIN * largest).sqrt()
        return torch.where(off[..., None, None], gram(u * roots.unsqueeze(-2)).to(y.dtype), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        return self._project(gram(self._draw(shape, like, generator) / self.rank**0.5))
