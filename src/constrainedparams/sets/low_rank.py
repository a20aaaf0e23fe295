"""Matrices of a given rank at most."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..numerics.elementary import precise
from ..numerics.orthogonal import first_columns
from ..numerics.ranked import range_basis
from .contract import Shape
from .matrix_constraint import MatrixConstraint
from .ranked import check_rank, rank_fits

__all__ = ["LowRank"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class LowRank(MatrixConstraint):
    """Matrices of rank at most r.

    y = Q B: B is the first r rows of x, and Q = exp([[0, -K^H], [K, 0]]) I_{n x r}, moved to the
    state ``left``: the geodesic of :class:`Grassmann`, with K the first r columns of x from row r
    on. What is read of x are r (n + m - r) numbers, the dimension of the set; the others get no
    gradient. Unlike in U V^H, y = 0 is no dead point: at B = 0 the derivative in B has full rank.
    ``left`` has a basis of the columns of the last y of ``right_inverse`` or ``retract`` in its
    first r columns, and zeros in the others.

    Args:
        rank: r, from 1 to min(n, m).
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, m); x and ``left`` have the shape of y. Dtypes: real, complex.
    ``right_inverse`` is the SVD, B = S V^H. ``project`` is the nearest point, the truncated SVD
    (Eckart and Young 1936); 0, at which the set has no tangent space, becomes 0.001 I_{n x r} with
    zeros beside it. ``sample`` is the product of a normal n x r and a normal r x m matrix over
    r^1/2. The residual is the distance over |y|_F.

    Raises:
        OptionError: a rank that is not a whole number above 0.
        ShapeError: fewer rows or columns than the rank.

    Example:
        >>> import torch
        >>> from constrainedparams import LowRank
        >>> y = LowRank(2)(torch.randn(6, 5))
        >>> int(torch.linalg.matrix_rank(y))
        2
        >>> LowRank(1).contains(torch.eye(2)), LowRank(1).contains(torch.ones(2, 3))
        (tensor(False), tensor(True))
    """

    rank: int

    state_names: ClassVar[tuple[str, ...]] = ("left",)
    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "0")

    def _check_options(self) -> None:
        check_rank(self.rank)

    def _check(self, shape: Shape) -> str | None:
        return rank_fits(self.rank, shape)

    def _factorization(  # type: ignore[override]
        self, x: Tensor, left: Tensor | None = None
    ) -> dict[str, Tensor]:
        return {"left": range_basis(left, x, self.rank), "right": x[..., : self.rank, :]}

    def _forward(self, x: Tensor, **state: Tensor) -> Tensor:
        parts = self._factorization(x, **state)
        return parts["left"] @ parts["right"]

    def _right_inverse(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        (n, m), r = y.shape[-2:], self.rank
        u, s, vh = torch.linalg.svd(precise(y), full_matrices=False)
        rows = s[..., :r].unsqueeze(-1) * vh[..., :r, :]
        left = torch.nn.functional.pad(u[..., :r], (0, m - r))
        return torch.nn.functional.pad(rows, (0, 0, 0, n - r)), {"left": left}

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._right_inverse(self._forward(x, **state))

    def _residual(self, y: Tensor) -> Tensor:
        s = torch.linalg.svdvals(precise(y))
        size = torch.linalg.vector_norm(s, dim=-1)
        off = torch.linalg.vector_norm(s[..., self.rank :], dim=-1)
        return off / torch.where(size > 0, size, torch.ones_like(size))

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 4 * min(shape[-2:]) ** 0.5 * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        u, s, vh = torch.linalg.svd(precise(y), full_matrices=False)
        kept = s[..., : self.rank].unsqueeze(-2)
        moved = ((u[..., : self.rank] * kept) @ vh[..., : self.rank, :]).to(y.dtype)
        y = torch.where(off[..., None, None], moved, y)
        start = first_columns(y) * (torch.arange(y.shape[-1], device=y.device) < self.rank)
        return torch.where((y == 0).all(-1).all(-1)[..., None, None], _MARGIN * start, y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        *batch, n, m = shape
        made = (*batch, n + m, self.rank)
        draw = torch.randn(made, dtype=like.dtype, device=like.device, generator=generator)
        return draw[..., :n, :] @ draw[..., n:, :].mH / self.rank**0.5

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * self.rank * (shape[-2] + shape[-1] - self.rank)
