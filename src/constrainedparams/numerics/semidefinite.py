"""Hermitian matrices by their eigenvalues: square roots, nearest points, distance from a rank."""

import torch
from torch import Tensor

from .definite import factor, factor_inverse, gram, hermitian, identity_like
from .elementary import precise

__all__ = [
    "core",
    "core_inverse",
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


def core(x: Tensor, slack: float) -> Tensor:
    """P + slack tr(P) I, P = L L^H, L = factor(x): in every basis definite beyond rounding."""
    p = gram(factor(x))
    trace = torch.diagonal(p, dim1=-2, dim2=-1).real.sum(-1)
    return p + (slack * trace)[..., None, None] * identity_like(p)


def core_inverse(e: Tensor, slack: float, like: Tensor) -> Tensor:
    """The x with core(x, slack) = diag(e), in the dtype of ``like``; e in double precision."""
    p = e - slack / (1 + e.shape[-1] * slack) * e.sum(-1, keepdim=True)
    tiny = torch.finfo(like.dtype).tiny
    roots = torch.maximum(p, slack * e).clamp_min(tiny).sqrt()
    return factor_inverse(torch.diag_embed(roots), like.dtype).to(like.dtype)
