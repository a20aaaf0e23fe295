"""Unitary matrices with determinant 1."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .contract import Shape
from .orthonormal import Orthonormal

__all__ = ["SpecialUnitary"]


@dataclass(frozen=True, repr=False)
class SpecialUnitary(Orthonormal):
    """SU(n): square complex matrices with y^H y = I and det y = 1.

    y = base exp(S - tr(S)/n I), S the skew-Hermitian matrix of the lower triangle of x and of the
    imaginary part of its diagonal (Lezcano-Casado, Martinez-Rubio, arXiv 1901.08428, with the base
    of 1909.09501): det exp(S) = exp(tr S). Of a real tensor y is a rotation, as in
    :class:`SpecialOrthogonal`.

    Args:
        map: ``"exp"``; there is no other one.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x and ``base`` have the shape of y. Dtypes: complex, real.
    ``right_inverse`` gives x = 0 and base = y, polished; ``project`` is the polar factor, divided
    by the n-th root of its determinant with the smallest angle: nearest to a unitary y (real: the
    nearest rotation); ``sample`` is Haar; the residual is |y^H y - I|_F, plus the distance from a
    unitary matrix with that determinant to the nearest one with determinant 1.

    Raises:
        OptionError: another map.
        ShapeError: not square.

    Example:
        >>> import torch
        >>> from constrainedparams import SpecialUnitary
        >>> y = SpecialUnitary()(torch.randn(2, 2, dtype=torch.complex128))
        >>> torch.allclose(torch.linalg.det(y), torch.ones((), dtype=torch.complex128))
        True
    """

    special: ClassVar[bool] = True
    has_complex: ClassVar[bool] = True
    known: ClassVar[tuple[str, ...]] = ("exp",)
    refused: ClassVar[dict[str, str]] = {
        "cayley": " The determinant of its values is not 1 when the trace is 0. Unitary has it.",
        "polar": " The determinant of a polar factor is any of modulus 1. Unitary has it.",
        "householder": " Its columns have phases of their own: any determinant. Unitary has it.",
    }
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)

    def _check(self, shape: Shape) -> str | None:
        if shape[-2] == shape[-1]:
            return None
        return "a unitary matrix is square. For orthonormal columns or rows use Orthogonal()."

    def _tangent(self, x: Tensor) -> Tensor:
        if not x.is_complex():
            return x
        diagonal = torch.diagonal(x, dim1=-2, dim2=-1)
        mean = diagonal.mean(dim=-1, keepdim=True).expand(diagonal.shape)
        return x - torch.diag_embed(mean)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n = shape[-1]
        return max(n * n - 1, 0) if is_complex else n * (n - 1) // 2
