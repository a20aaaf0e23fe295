"""The parts of a matrix of given rank: an orthonormal basis of its range, and its core."""

import torch
from torch import Tensor

from .definite import factor, factor_inverse, gram, identity_like
from .elementary import real_diagonal
from .orthogonal import exponential_from, newton_schulz

__all__ = ["core", "core_inverse", "range_basis"]


def range_basis(base: Tensor | None, x: Tensor, rank: int) -> Tensor:
    """Q = exp([[0, -K^H], [K, 0]]) I_{n x r}, moved to the first r columns of ``base``.

    Args:
        base: (..., n, m), m >= r, a constant; None: left at I_{n x r}.
        x: (..., n, m); K is its first r columns from row r on.

    Returns:
        (..., n, r), orthonormal columns; it reaches every subspace.
    """
    # A base that was cast is orthonormal to the rounding of that dtype only.
    start = None if base is None else newton_schulz(base[..., :rank], 2)
    top, rest = x[..., :rank, :rank], x[..., rank:, :rank]
    return exponential_from(start, torch.cat((torch.zeros_like(top), rest), dim=-2))


def core(x: Tensor, slack: float) -> Tensor:
    """P + slack tr(P) I, P = L L^H, L = factor(x): in every basis definite beyond rounding."""
    p = gram(factor(x))
    trace = real_diagonal(p).sum(-1)
    return p + (slack * trace)[..., None, None] * identity_like(p)


def core_inverse(e: Tensor, slack: float, like: Tensor) -> Tensor:
    """The x with core(x, slack) = diag(e), in the dtype of ``like``; e in double precision."""
    p = e - slack / (1 + e.shape[-1] * slack) * e.sum(-1, keepdim=True)
    tiny = torch.finfo(like.dtype).tiny
    roots = torch.maximum(p, slack * e).clamp_min(tiny).sqrt()
    return factor_inverse(torch.diag_embed(roots), like.dtype).to(like.dtype)
