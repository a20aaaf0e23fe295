"""Unitary matrices: square complex ones with orthonormal columns."""

from dataclasses import dataclass
from typing import ClassVar

from .contract import Shape
from .orthonormal import Orthonormal

__all__ = ["Unitary"]


@dataclass(frozen=True, repr=False)
class Unitary(Orthonormal):
    """U(n): square complex matrices with y^H y = I.

    y = base phi(S), S the skew-Hermitian matrix of the lower triangle of x and of the imaginary
    part of its diagonal; phi(S) = exp(S) (Lezcano-Casado, Martinez-Rubio, arXiv 1901.08428, with
    the base of 1909.09501) or the Cayley map (I - S/2)^-1 (I + S/2). With ``"polar"`` y is the
    unitary matrix nearest to x, x (x^H x)^(-1/2), without a base; with ``"householder"`` a product
    of reflectors, whose formula is in :class:`Orthogonal`, which is the same for square matrices,
    and takes tall and wide ones. U(n) has one component; of a real tensor y is orthogonal, and all
    maps but the polar one keep the sign of its determinant.

    Args:
        map: ``"exp"``; ``"cayley"``: cheaper, and less than half a turn from base; ``"polar"``: the
            scale of x changes nothing in y; ``"householder"``: base is diagonal.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n); x and ``base`` have the shape of y. Dtypes: complex, real.
    ``right_inverse`` gives x = 0 and base = y, polished (polar: x = y, householder: the reflectors
    of a QR factorisation of y); ``project`` is the polar factor, which is nearest; ``sample`` is
    Haar; the residual is |y^H y - I|_F.

    Raises:
        OptionError: an unknown map.
        ShapeError: not square.

    Example:
        >>> import torch
        >>> from constrainedparams import Unitary
        >>> y = Unitary()(torch.randn(3, 3, dtype=torch.complex64))
        >>> torch.allclose(y.mH @ y, torch.eye(3, dtype=torch.complex64), atol=1e-6)
        True
    """

    has_complex: ClassVar[bool] = True
    known: ClassVar[tuple[str, ...]] = ("exp", "cayley", "polar", "householder")

    @property
    def onto(self) -> str:
        if self.map == "polar":
            return "the whole set"
        return self._reached("the whole set (of a real tensor: the component of the start)")

    def _check(self, shape: Shape) -> str | None:
        if shape[-2] == shape[-1]:
            return None
        return "a unitary matrix is square. For orthonormal columns or rows use Orthogonal()."

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n = shape[-1]
        return n * n if is_complex else n * (n - 1) // 2
