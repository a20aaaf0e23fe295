"""Points on a set and just off it, for the rows."""

import torch
from torch import Tensor

__all__ = ["bump", "half_turn", "identity", "isometry", "reflection", "spectrum", "triangle"]


def identity(y: Tensor) -> Tensor:
    """The identity, or its first columns or rows, in the shape of ``y``."""
    return torch.eye(*y.shape[-2:], dtype=y.dtype).expand(y.shape).clone()


def bump(y: Tensor, size: float = 1e-3) -> Tensor:
    """``y`` with its first entry enlarged."""
    y = y.clone()
    y.view(-1)[0] += size
    return y


def triangle(y: Tensor) -> Tensor:
    """The free entries of one Hermitian matrix."""
    rows, columns = torch.tril_indices(*y.shape[-2:])
    entries = y[rows, columns]
    return torch.cat((entries.real, entries[rows != columns].imag)) if y.is_complex() else entries


def half_turn(y: Tensor) -> Tensor:
    """-I: an angle of pi, which Cayley reaches from no other base, exp not smoothly."""
    return -identity(y)


def reflection(y: Tensor) -> Tensor:
    """Determinant -1 (square), the other component of the orthogonal group."""
    return bump(identity(y), -2.0)


def spectrum(y: Tensor, first: float, second: float) -> Tensor:
    """diag(first, ..., first, second), turned a little."""
    n = y.shape[-1]
    values = torch.full((n,), first, dtype=torch.float64)
    values[-1] = second
    turn = torch.linalg.qr(torch.arange(1.0, n * n + 1, dtype=torch.float64).reshape(n, n).sin())[0]
    full = (turn * values) @ turn.T
    return (0.5 * (full + full.T)).to(y.dtype)


def isometry(y: Tensor, rank: int) -> Tensor:
    """y with ``rank`` singular values 1, the others 0."""
    u, _, vh = torch.linalg.svd(y.to(torch.complex128 if y.is_complex() else torch.float64))
    return (u[..., :rank] @ vh[..., :rank, :]).to(y.dtype)
