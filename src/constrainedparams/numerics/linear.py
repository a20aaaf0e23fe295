"""Orthogonal projectors onto linear spaces of matrices and vectors."""

import torch
from torch import Tensor

from .elementary import with_value

__all__ = [
    "centred",
    "circulant_classes",
    "diagonal_blocks",
    "diagonal_matrix",
    "from_blocks",
    "tied",
    "toeplitz_classes",
    "traceless",
    "triangle",
]


def triangle(x: Tensor, lower: bool, diagonal: float | None) -> Tensor:
    """The lower or upper triangle of x, its diagonal replaced by ``diagonal`` where given."""
    if diagonal is None:
        return x.tril() if lower else x.triu()
    fixed = torch.eye(*x.shape[-2:], dtype=x.dtype, device=x.device) * diagonal
    return (x.tril(-1) if lower else x.triu(1)) + fixed


def diagonal_matrix(x: Tensor) -> Tensor:
    """x, rectangular too, with 0 off its diagonal."""
    return x.tril().triu()


def _without_trace(x: Tensor) -> Tensor:
    n = x.shape[-1]
    mean = torch.diagonal(x, dim1=-2, dim2=-1).sum(-1) / max(n, 1)
    return x - mean[..., None, None] * torch.eye(n, dtype=x.dtype, device=x.device)


def traceless(x: Tensor) -> Tensor:
    """x - tr(x)/n I. Twice: beside a large trace the first difference leaves its rounding."""
    y = _without_trace(x)
    return with_value(y, _without_trace(y.detach()))


def _minus_means(x: Tensor, axes: int) -> Tensor:
    for axis in range(-axes, 0):
        x = x - x.mean(axis, keepdim=True)
    return x


def centred(x: Tensor, axes: int) -> Tensor:
    """x with sum 0 along each of its last ``axes`` axes; twice, as in :func:`traceless`."""
    y = _minus_means(x, axes)
    return with_value(y, _minus_means(y.detach(), axes))


def toeplitz_classes(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The number of the diagonal of each entry of a matrix (n, m), and an entry of each."""
    rows, columns = (torch.arange(k, device=device) for k in (n, m))
    classes = rows[:, None] - columns + (m - 1)
    return classes.flatten(), torch.cat((columns[1:].flip(0), rows * m))


def circulant_classes(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The place i - j mod n of each entry in the first column, and the entries of that column."""
    k = torch.arange(n, device=device)
    return ((k[:, None] - k) % n).flatten(), k * n


def tied(x: Tensor, classes: Tensor, members: Tensor) -> Tensor:
    """Each entry of the matrices x replaced by the mean over its class.

    Args:
        x: (..., n, m).
        classes: (n m), the number of each entry's class.
        members: one entry of each class. The mean is that entry plus a mean of differences: exact
            where all of the class are equal, in classes of any size.
    """
    flat = x.flatten(-2)
    chosen = flat[..., members]
    gaps = flat - chosen[..., classes]
    zeros = torch.zeros_like(chosen)
    sizes = torch.zeros_like(members, dtype=x.real.dtype)
    sizes = sizes.index_add(0, classes, torch.ones_like(classes, dtype=x.real.dtype))
    mean = chosen + zeros.index_add(-1, classes, gaps) / sizes
    return mean[..., classes].unflatten(-1, x.shape[-2:])


def diagonal_blocks(y: Tensor, count: int) -> Tensor:
    """The ``count`` equal blocks (..., count, n, m) on the diagonal of y."""
    split = y.unflatten(-1, (count, -1) if y.shape[-1] else (count, 0))
    split = split.unflatten(-3, (count, -1) if y.shape[-2] else (count, 0))
    return torch.diagonal(split, dim1=-4, dim2=-2).movedim(-1, -3)


def from_blocks(blocks: Tensor) -> Tensor:
    """The block-diagonal matrix: undoes :func:`diagonal_blocks`."""
    full = torch.diag_embed(blocks.movedim(-3, -1), dim1=-4, dim2=-2)
    return full.flatten(-2).flatten(-3, -2)
