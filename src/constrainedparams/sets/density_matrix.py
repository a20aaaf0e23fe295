"""Positive semidefinite matrices of trace 1."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics import definite as d
from ..numerics.elementary import precise
from ..numerics.vectors import nearest_in_simplex, unit
from .contract import Shape
from .factored import Factored

__all__ = ["DensityMatrix"]


@dataclass(frozen=True, repr=False)
class DensityMatrix(Factored):
    """Density matrices (the spectrahedron): eigenvalues >= 0 with sum 1, at most ``rank`` above 0.

    y = x x^H / |x|_F^2 at any scale of x, which is n x n, or n x r for rank r. The gradient in x is
    orthogonal to x; ``retract`` sets |x|_F = 1. At x = 0, where the map is not defined, y is the
    matrix of entries 1/n. It reaches the boundary (pure states) and leaves it again.

    Args:
        rank: the highest rank, from 1 to n; None for n.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n). x has the shape of y; with a rank x is (..., n, rank), as in
    :class:`PositiveSemidefinite`. Dtypes: real, complex.
    ``right_inverse`` is that of :class:`PositiveSemidefinite`. ``project`` is the nearest point:
    the ``rank`` largest eigenvalues, moved to the nearest point of the simplex (Kyrillidis et al.,
    arXiv 1206.1529). ``sample`` is G G^H / |G|_F^2 with a normal G (n x n, or n x r): uniform in
    the Hilbert-Schmidt metric without a rank (Zyczkowski, Sommers, quant-ph/0012101). The residual
    is the larger one of the distance of the eigenvalues over |y|_F and abs(trace - 1).

    Raises:
        OptionError: a rank that is not a whole number above 0.
        ShapeError: not square, of size 0, or smaller than the rank.

    Example:
        >>> import torch
        >>> from constrainedparams import DensityMatrix
        >>> rho = DensityMatrix()(torch.randn(3, 3, dtype=torch.complex64))
        >>> round(rho.diagonal().sum().real.item(), 5)
        1.0
        >>> DensityMatrix().project(torch.diag(torch.tensor([3.0, 1.0])))
        tensor([[1., 0.],
                [0., 0.]])
    """

    smooth = property(lambda self: False)  # not at x = 0
    decay_target = property(lambda self: "itself; at x = 0 exactly, all entries 1/n")

    def _check(self, shape: Shape) -> str | None:
        if shape[-1] == 0:
            return "expected matrices of size 1 or more, as an empty one has no trace 1."
        return super()._check(shape)

    def _rows(self, x: Tensor) -> Tensor:
        return unit(x.flatten(-2)).unflatten(-1, x.shape[-2:])

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._rows(x), state

    def _off(self, y: Tensor) -> Tensor:
        return (torch.diagonal(precise(y), dim1=-2, dim2=-1).sum(-1) - 1).abs()

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        e, u = torch.linalg.eigh(d.hermitian(precise(y)))
        kept = e.shape[-1] if self.rank is None else self.rank
        u, e = u[..., -kept:], nearest_in_simplex(e[..., -kept:])
        moved = d.hermitian((u * e.unsqueeze(-2)) @ u.mH).to(y.dtype)
        return torch.where(off[..., None, None], moved, y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        *batch, n, _ = shape
        made = (*batch, n, self.rank or n)
        draw = torch.randn(made, dtype=like.dtype, device=like.device, generator=generator)
        return self._forward(draw)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return super()._dimension(shape, is_complex) - 1
