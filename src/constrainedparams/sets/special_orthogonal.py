"""Rotations: square real matrices with orthonormal columns and determinant 1."""

from dataclasses import dataclass
from typing import ClassVar

from .contract import Shape
from .orthonormal import Orthonormal

__all__ = ["SpecialOrthogonal"]


@dataclass(frozen=True, repr=False)
class SpecialOrthogonal(Orthonormal):
    """SO(n): y^T y = I and det y = 1.

    y = base phi(S), S the skew-symmetric matrix of the lower triangle of x; phi(S) = exp(S)
    (Lezcano-Casado, Martinez-Rubio, arXiv 1901.08428, with the base of 1909.09501) or the Cayley
    map (I - S/2)^-1 (I + S/2). Both have determinant 1, so y stays in the component of base. With
    ``"householder"`` y is a product of reflectors with base a diagonal of signs, of determinant 1
    (:class:`Orthogonal`).

    Args:
        map: ``"exp"``; ``"cayley"``: cheaper, and less than half a turn from base;
            ``"householder"``.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x and ``base`` have the shape of y. Dtypes: real; unitary matrices are the
    complex version of :class:`Orthogonal`. ``right_inverse`` gives x = 0 and base = y, polished
    (householder: the reflectors of a QR factorisation of y); ``project`` is the nearest rotation,
    U diag(1, ..., 1, det(U V^T)) V^T of the SVD (Kabsch 1976); ``sample`` is Haar; the residual is
    |y^T y - I|_F, plus 2 where the determinant is negative (the distance from a reflection to the
    nearest rotation).

    Raises:
        OptionError: an unknown map.
        ShapeError: not square.

    Example:
        >>> import torch
        >>> from constrainedparams import SpecialOrthogonal
        >>> torch.linalg.det(SpecialOrthogonal()(torch.randn(4, 4)))
        tensor(1.0000)
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> SpecialOrthogonal().residual(swap)
        tensor(2.)
    """

    special: ClassVar[bool] = True
    known: ClassVar[tuple[str, ...]] = ("exp", "cayley", "householder")
    refused: ClassVar[dict[str, str]] = {
        "polar": " The polar factor of a matrix with a negative determinant is no rotation, and x "
        'may become one; Orthogonal(map="polar") takes both components.'
    }
    dtype_remedy: ClassVar[str] = "For unitary matrices use Orthogonal()."

    @property
    def onto(self) -> str:
        return self._reached("the whole set")

    def _check(self, shape: Shape) -> str | None:
        if shape[-2] == shape[-1]:
            return None
        return "a rotation is square. For orthonormal columns or rows use Orthogonal()."

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n = shape[-1]
        return n * (n - 1) // 2
