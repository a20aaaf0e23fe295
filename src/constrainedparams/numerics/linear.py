"""Orthogonal projectors onto linear spaces of matrices and vectors."""

from collections.abc import Callable

import torch
from torch import Tensor

from .elementary import with_value

__all__ = [
    "a_direction",
    "affine_rows",
    "centred",
    "circulant_classes",
    "diagonal_blocks",
    "diagonal_matrix",
    "from_blocks",
    "onto_null_space",
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


def _projected(project: Callable[[Tensor], Tensor], x: Tensor, axes: int) -> Tensor:
    """``project(x)``, on the space to rounding of its own size, with the derivative of ``project``.

    Beside a large part that is dropped the difference leaves the rounding of that part: a second
    projection drops it, and leaves its square. Where nothing more is left, over the last ``axes``
    axes, y is 0.
    """
    y = project(x)
    if y.numel() == 0:
        return y
    value = project(y.detach())
    over = tuple(range(-axes, 0))
    size, rest = (t.detach().abs().amax(over, keepdim=True) for t in (x, value))
    noise = rest <= torch.finfo(x.dtype).eps / 8 * size
    return with_value(y, torch.where(noise, torch.zeros_like(value), value))


def _without_trace(x: Tensor) -> Tensor:
    n = x.shape[-1]
    mean = torch.diagonal(x, dim1=-2, dim2=-1).sum(-1) / max(n, 1)
    return x - mean[..., None, None] * torch.eye(n, dtype=x.dtype, device=x.device)


def traceless(x: Tensor) -> Tensor:
    """x - tr(x)/n I."""
    return _projected(_without_trace, x, 2)


def centred(x: Tensor, axes: int) -> Tensor:
    """x with sum 0 along each of its last ``axes`` axes."""

    def minus_means(t: Tensor) -> Tensor:
        for axis in range(-axes, 0):
            t = t - t.mean(axis, keepdim=True)
        return t

    return _projected(minus_means, x, axes)


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


def affine_rows(A: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """Q with orthonormal rows and c such that A y = b and Q y = c say the same; None if nothing.

    From the singular value decomposition A = U S Q with the zeros left out: c = S^-1 U^H b. How
    A is conditioned no longer matters in the projection.
    """
    U, S, Q = torch.linalg.svd(A, full_matrices=False)
    rank = int((max(A.shape) * torch.finfo(S.dtype).eps * S[:1] < S).sum())
    U, S, Q = U[:, :rank], S[:rank], Q[:rank]
    b = b.to(U.dtype).expand(A.shape[0])
    along = U.mH @ b
    missed = torch.linalg.vector_norm(b - U @ along)
    if missed > 1e-9 * torch.linalg.vector_norm(b):
        return None
    return Q, along / S


def onto_null_space(x: Tensor, Q: Tensor) -> Tensor:
    """The nearest y with Q y = 0, vectors along the last axis; Q has orthonormal rows."""
    return _projected(lambda t: t - (t @ Q.mT) @ Q.conj(), x, 1)


def a_direction(Q: Tensor) -> Tensor:
    """A unit vector orthogonal to the rows of Q: along the first axis that is nearest to it."""
    share = 1 - (Q * Q.conj()).real.sum(0)
    k = int((share > share.max() - 1e-9).int().argmax())
    axis = torch.zeros_like(Q[0]) if len(Q) else Q.new_zeros(Q.shape[1])
    axis[k] = 1
    y = onto_null_space(axis, Q)
    return y / torch.linalg.vector_norm(y)
