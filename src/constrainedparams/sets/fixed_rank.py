"""Matrices of a given rank."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..numerics import orthogonal as maps
from ..numerics.elementary import precise
from ..numerics.ranked import core, core_inverse, range_basis
from .contract import Shape
from .matrix_constraint import MatrixConstraint
from .ranked import check_rank, rank_fits

__all__ = ["FixedRank"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class FixedRank(MatrixConstraint):
    """Matrices of rank r.

    y = U S V^H with S = P + s tr(P) I, P = L L^H, L the factor of the lower triangle of the first r
    rows and columns of x as in :class:`PositiveDefinite`, s = 8 min(n, m)^1/2 rounding units: the
    rank is r for every x. U is Q of :class:`LowRank`, from ``left``. V = exp(A) I_{m x r}, moved
    to ``right``, as in :class:`Orthogonal` with the conjugate transpose of the first r rows of x;
    it reads what L does not. Every number that is read counts once: r (n + m - r), the dimension.
    The states hold the singular vectors of the last y of ``right_inverse`` or ``retract``: ``left``
    in its first r columns, ``right`` (conjugate transposed) in its first r rows, zeros elsewhere.

    Args:
        rank: r, from 1 to min(n, m).
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, m); x, ``left`` and ``right`` have the shape of y. Dtypes: real, complex.
    ``right_inverse`` is the SVD. ``project`` is the truncated SVD with singular values of at least
    a thousandth of the largest (of 1 for y = 0): nearest but for this margin. ``sample`` is that of
    :class:`LowRank`. The residual is relative to |y|_F: the distance from rank r, or by how much
    singular value r is below rounding.

    Raises:
        OptionError: a rank that is not a whole number above 0.
        ShapeError: fewer rows or columns than the rank.

    Example:
        >>> import torch
        >>> from constrainedparams import FixedRank
        >>> y = FixedRank(2)(torch.randn(6, 5))
        >>> int(torch.linalg.matrix_rank(y))
        2
        >>> FixedRank(2).contains(torch.ones(2, 3))
        tensor(False)
    """

    rank: int

    state_names: ClassVar[tuple[str, ...]] = ("left", "right")
    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set (the component of the start, where r = n = m)")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "ln(2)^2 left right, of all singular values ln(2)^2")

    def _check_options(self) -> None:
        check_rank(self.rank)

    def _check(self, shape: Shape) -> str | None:
        return rank_fits(self.rank, shape)

    def _slack(self, y: Tensor) -> float:
        return 8 * min(y.shape[-2:]) ** 0.5 * torch.finfo(y.dtype).eps

    def _forward(  # type: ignore[override]
        self, x: Tensor, left: Tensor | None = None, right: Tensor | None = None
    ) -> Tensor:
        parts = self._factorization(x, left, right)
        return parts["left"] @ parts["core"] @ parts["right"].mH

    def _factorization(  # type: ignore[override]
        self, x: Tensor, left: Tensor | None = None, right: Tensor | None = None
    ) -> dict[str, Tensor]:
        r = self.rank
        start = None if right is None else maps.newton_schulz(right[..., :r, :].mH, 2)
        v = maps.exponential_from(start, x[..., :r, :].mH)
        inner = core(x[..., :r, :r], self._slack(x))
        return {"left": range_basis(left, x, r), "core": inner, "right": v}

    def _right_inverse(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        (n, m), r = y.shape[-2:], self.rank
        u, e, vh = torch.linalg.svd(precise(y), full_matrices=False)
        x = core_inverse(e[..., :r], self._slack(y), y)
        state = {
            "left": pad(u[..., :r], (0, m - r)),
            "right": pad(vh[..., :r, :], (0, 0, 0, n - r)),
        }
        return pad(x, (0, m - r, 0, n - r)), state

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._right_inverse(self._forward(x, **state))

    def _residual(self, y: Tensor) -> Tensor:
        e = torch.linalg.svdvals(precise(y))
        size = torch.linalg.vector_norm(e, dim=-1, keepdim=True)
        e = e / torch.where(size > 0, size, torch.ones_like(size))
        beyond = 2 * self._tolerance(tuple(y.shape), y.dtype)
        off = torch.linalg.vector_norm(e[..., self.rank :], dim=-1)
        return torch.maximum(off, beyond - e[..., self.rank - 1])

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 4 * min(shape[-2:]) ** 0.5 * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        u, e, vh = torch.linalg.svd(precise(y), full_matrices=False)
        largest = torch.where(e[..., :1] > 0, e[..., :1], torch.ones_like(e[..., :1]))
        e = torch.maximum(e[..., : self.rank], _MARGIN * largest).unsqueeze(-2)
        moved = (u[..., : self.rank] * e) @ vh[..., : self.rank, :]
        return torch.where(off[..., None, None], moved.to(y.dtype), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        *batch, n, m = shape
        made = (*batch, n + m, self.rank)
        draw = torch.randn(made, dtype=like.dtype, device=like.device, generator=generator)
        return self._project(draw[..., :n, :] @ draw[..., n:, :].mH / self.rank**0.5)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * self.rank * (shape[-2] + shape[-1] - self.rank)
