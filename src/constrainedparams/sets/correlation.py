"""Correlation matrices, of a given rank at most when asked for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics import correlation as c
from ..numerics import definite as d
from ..numerics import semidefinite as s
from ..numerics.elementary import precise, real_diagonal
from ..numerics.vectors import unit
from .contract import Shape
from .factored import Factored

__all__ = ["Correlation"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class Correlation(Factored):
    """Correlation matrices: unit diagonal and positive definite, or of rank at most ``rank``.

    Without a rank y = L L^H with L the rows of tril(x, -1) + I divided by their lengths. Numbers
    off the diagonal are divided by 1 + 4 n^1/2 rounding units, so that y is definite for every x;
    for a factor that keeps more digits use :class:`CorrelationCholesky`. With a rank (the
    elliptope; singular matrices belong to it) y = Z Z^H, Z the rows of x (n x rank) divided by
    their lengths; ``retract`` sets x = Z, and a row of zeros counts as a row of ones.

    Args:
        rank: the highest rank, from 1 to n; None for positive definite matrices.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n) with n >= 1. x has the shape of y, and only its entries below the diagonal
    are read; with a rank x is (..., n, rank), as in :class:`PositiveSemidefinite`. Dtypes: real,
    complex.
    ``right_inverse`` is the Cholesky factorisation, with a rank the eigendecomposition.
    ``project`` is the nearest correlation matrix with eigenvalues of at least 0.001 (alternating
    projections, Higham 2002); with a rank it sets the diagonal to 1, keeps the ``rank`` largest
    eigenvalues and divides the rows of Z by their lengths. ``sample`` is uniform (LKJ with
    eta = 1), with a rank the rows of Z are uniform on the sphere. The residual is the largest of
    abs(y_ii - 1), asymmetry, and how far eigenvalues are off (without a rank: below rounding).

    Raises:
        OptionError: a rank that is not a whole number above 0.
        ShapeError: not square, of size 0, or smaller than the rank.

    Example:
        >>> import torch
        >>> from constrainedparams import Correlation
        >>> Correlation()(torch.tensor([[0.0, 0.0], [0.75, 0.0]]))
        tensor([[1.0000, 0.6000],
                [0.6000, 1.0000]])
        >>> Correlation(rank=1)(torch.tensor([[2.0], [-0.5]]))
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """

    one_to_one = property(lambda self: self.rank is None)
    smooth = property(lambda self: self.rank is None)  # with a rank not where a row of x is 0

    @property
    def decay_target(self) -> str:
        return "I" if self.rank is None else "itself; at x = 0 exactly, all entries 1"

    def _check(self, shape: Shape) -> str | None:
        if shape[-1] == 0:
            return "expected matrices of size 1 or more. Check view=."
        return super()._check(shape)

    def _slack(self, y: Tensor) -> float:
        return 4 * y.shape[-2] ** 0.5 * torch.finfo(y.dtype).eps

    def _rows(self, x: Tensor) -> Tensor:
        # The derivative of a long row is a small difference of large numbers: in double precision.
        return c.factor_of_rows(precise(x)) if self.rank is None else unit(x)

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y = d.gram(self._rows(x))
        y = y / (1 + self._slack(x)) if self.rank is None else y
        return c.with_unit_diagonal(y.to(x.dtype))

    def _factorization(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        z = self._rows(x)
        return d.cholesky_factors(z) if self.rank is None else {"root": z}

    def _right_inverse(self, y: Tensor) -> Tensor:
        if self.rank is not None:
            return s.square_root(y, self.rank, torch.finfo(y.dtype).eps)
        slack = self._slack(y)
        wide = d.hermitian(precise(y))
        raised = torch.full_like(wide.real[..., 0], 1.5 * slack)
        l = d.cholesky(c.with_unit_diagonal((1 + slack) * wide), raised)
        return l.tril(-1) / real_diagonal(l).unsqueeze(-1)

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return (x if self.rank is None else unit(x)), state

    def _off(self, y: Tensor) -> Tensor:
        return (torch.diagonal(precise(y), dim1=-2, dim2=-1) - 1).abs().amax(-1)

    def _residual(self, y: Tensor) -> Tensor:
        if self.rank is not None:
            return super()._residual(y)
        wide, n = precise(y), y.shape[-1]
        weight = torch.ones_like(wide.real[..., 0])
        beyond = self._tolerance(tuple(y.shape), y.dtype) + n**0.5 * torch.finfo(wide.dtype).eps
        gap = d.definiteness(d.hermitian(wide), weight)
        asymmetry = d.scaled(wide - wide.mH, weight).abs().flatten(-2).amax(-1)
        return torch.maximum(torch.maximum(beyond - gap, asymmetry), self._off(y)).clamp_min(0)

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        if self.rank is None:
            moved = c.nearest_correlation(y, _MARGIN)
        else:
            near = c.with_unit_diagonal(d.hermitian(precise(y)))
            moved = self._forward(s.square_root(s.nearest_semidefinite(near), self.rank, 0.0))
        return torch.where(off[..., None, None], moved.to(y.dtype), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.rank is not None:
            return self._forward(self._draw(shape, like, generator))
        free = torch.ones(shape[-2:], dtype=like.real.dtype, device=like.device)
        y = c.with_unit_diagonal(d.gram(c.uniform_factor(shape, like, generator, free)))
        return self._project(y)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return super()._dimension(shape, is_complex) - shape[-1]

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.rank is not None:
            return super()._log_abs_det_jacobian(x)
        # L -> L L^H below the diagonal: each column j of L counts n - j rows, twice if complex.
        n, twice = x.shape[-1], 2 if x.is_complex() else 1
        below = torch.arange(n - 1, -1, -1, dtype=x.real.dtype, device=x.device)
        diagonal = real_diagonal(c.factor_of_rows(x))
        volume = (twice * below * diagonal.log()).sum(-1)
        shrunk = self._dimension((n, n), x.is_complex()) * torch.log1p(
            x.real.new_tensor(self._slack(x))
        )
        return c.log_det_rows(x, below.flip(-1)) + volume - shrunk
