"""Hermitian matrices by their eigenvalues: square roots, nearest points, distance from a rank."""

import torch
from torch import Tensor

from .definite import hermitian
from .elementary import precise

__all__ = [
    "indefiniteness",
    "nearest_semidefinite",
    "square_root",
]


def square_root(y: Tensor, rank: int | None, eps: float) -> Tensor:
    """Z with Z Z^H = y for positive semidefinite y, in double precision.

    y^1/2 (Hermitian) without a rank, else (..., n, rank). Eigenvalues below eps times the largest
    (for y = 0 below eps) are raised to that: where Z loses rank, Z Z^H is flat.
    """
    e, u = torch.linalg.eigh(hermitian(precise(y)))
    if y.shape[-1] == 0:
        return u if rank is None else u[..., :rank]
    largest = e.abs().amax(-1, keepdim=True)
    roots = torch.maximum(e, eps * torch.where(largest > 0, largest, torch.ones_like(e))).sqrt()
    z = u * roots.unsqueeze(-2)
    return hermitian(z @ u.mH) if rank is None else z[..., -rank:]


def nearest_semidefinite(y: Tensor, rank: int | None = None) -> Tensor:
    """The nearest positive semidefinite matrix (of that rank), in double precision.

    Negative eigenvalues and all but the largest ones become 0: nearest in the Frobenius norm
    (Higham, Linear Algebra Appl. 103, 1988; Eckart and Young 1936).
    """
    e, u = torch.linalg.eigh(hermitian(precise(y)))
    kept = e.shape[-1] if rank is None else rank
    u, e = u[..., -kept:], e[..., -kept:].clamp_min(0)
    return hermitian((u * e.unsqueeze(-2)) @ u.mH)


def indefiniteness(y: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Distance from the positive semidefinite matrices of that rank, and the eigenvalues.

    Both relative to |y|_F (for y = 0: 0), in double precision; the distance is that of y from its
    Hermitian part plus that of the latter, the eigenvalues ascend.
    """
    wide = precise(y)
    size = torch.linalg.matrix_norm(wide)
    wide = wide / torch.where(size > 0, size, torch.ones_like(size))[..., None, None]
    h = hermitian(wide)
    e = torch.linalg.eigvalsh(h)
    off = e.clamp_max(0)
    if rank is not None:
        off = torch.cat((e[..., :-rank], off[..., -rank:]), dim=-1)
    return torch.linalg.matrix_norm(wide - h) + torch.linalg.vector_norm(off, dim=-1), e
