"""Triangular factors of correlation matrices, and the nearest correlation matrix."""

import torch
from torch import Tensor

from .definite import clip_eigenvalues, hermitian, identity_like
from .elementary import precise, real_diagonal
from .vectors import length, unit

__all__ = [
    "factor_of_rows",
    "log_det_rows",
    "nearest_correlation",
    "uniform_factor",
    "with_unit_diagonal",
]


def factor_of_rows(x: Tensor) -> Tensor:
    """The rows of tril(x, -1) + I divided by their lengths: lower triangular, positive diagonal."""
    return unit(x.tril(-1) + torch.eye(x.shape[-1], dtype=x.dtype, device=x.device))


def log_det_rows(x: Tensor, count: Tensor) -> Tensor:
    """log |det| of x -> factor_of_rows(x), from the free entries of x to those of the factor.

    w / (1 + |w|^2)^1/2 in R^m has the determinant (1 + |w|^2)^(-(m + 2)/2); a complex w counts
    twice.

    Args:
        x: (..., n, n); what is not free is 0.
        count: (n,), how many entries are free in each row.
    """
    m = (2 if x.is_complex() else 1) * count
    squares = x.tril(-1).abs().square().sum(-1)
    return -0.5 * ((m + 2) * torch.log1p(squares)).sum(-1)


def with_unit_diagonal(c: Tensor) -> Tensor:
    """``c`` with a diagonal of exact ones."""
    one = identity_like(c)
    return c * (1 - one) + one


def uniform_factor(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None, mask: Tensor
) -> Tensor:
    """Cholesky factors of uniformly distributed correlation matrices, for shape (..., n, n).

    Row i of the factor has |w|^2 ~ Beta((i - 1)/2, (n - i + 2)/2) and a uniform direction
    (Lewandowski, Kurowicka and Joe, J. Multivariate Anal. 100, 2009, the onion method with eta = 1;
    complex: Beta(i - 1, n - i + 1)): the first i - 1 of n + 1 (complex: n) normal numbers divided
    by the length of all. The others, and those outside of ``mask``, make up the diagonal.
    """
    *batch, n, _ = shape
    more = 0 if like.is_complex() else 1
    made = (*batch, n, n + more)
    z = unit(torch.randn(made, dtype=like.dtype, device=like.device, generator=generator))
    w = z[..., :n].tril(-1) * mask
    rest = torch.cat((z[..., :n] - w, z[..., n:]), dim=-1)
    return w + torch.diag_embed(length(rest)).to(w.dtype)


def nearest_correlation(y: Tensor, low: float, steps: int = 2000) -> Tensor:
    """The nearest matrix with unit diagonal and eigenvalues of at least ``low``, to 1e-10.

    Alternating projections with Dykstra's correction (Higham, IMA J. Numer. Anal. 22, 2002), in
    double precision; then, for an exact result, eigenvalues once more and the diagonal by scaling.
    """
    x = hermitian(precise(y))
    correction = torch.zeros_like(x)
    for _ in range(steps):
        shifted = x - correction
        definite = clip_eigenvalues(shifted, low, None)
        after = with_unit_diagonal(definite)
        # An element of a batch that has arrived stays: it is what it would be alone.
        moving = ((after - definite).abs() > 1e-10).any(-1).any(-1)[..., None, None]
        x = torch.where(moving, after, x)
        correction = torch.where(moving, definite - shifted, correction)
        if not bool(moving.any()):
            break
    definite = clip_eigenvalues(x, low, None)
    root = real_diagonal(definite).sqrt()
    return with_unit_diagonal(definite / root.unsqueeze(-1) / root.unsqueeze(-2))
