"""Skew-Hermitian matrices of the lower triangle, and the adjoint of that."""

import torch
from torch import Tensor

from .kernel import adjoint

__all__ = ["skew", "skew_adjoint"]


def skew(x: Tensor) -> Tensor:
    """Skew-Hermitian matrix of the lower triangle of ``x`` (..., n, n).

    The diagonal of a real x is not read; of a complex one its imaginary part is.
    """
    strict = x.tril(-1)
    s = strict - adjoint(strict)
    if x.is_complex():
        diagonal = x * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        s = s + 0.5 * (diagonal - adjoint(diagonal))
    return s


def skew_adjoint(g: Tensor) -> Tensor:
    """The gradient of x for the gradient ``g`` of skew(x): tril(g - g^H), half of the diagonal."""
    both = g - adjoint(g)
    if not g.is_complex():
        return both.tril(-1)
    return both.tril(-1) + 0.5 * torch.diag_embed(torch.diagonal(both, dim1=-2, dim2=-1))
