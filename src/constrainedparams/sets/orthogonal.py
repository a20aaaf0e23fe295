"""Matrices with orthonormal columns (tall, square) or rows (wide)."""

from dataclasses import dataclass
from typing import ClassVar

from .contract import Shape
from .orthonormal import Orthonormal

__all__ = ["Orthogonal"]


@dataclass(frozen=True, repr=False)
class Orthogonal(Orthonormal):
    """Orthogonal (complex: unitary) matrices y^H y = I; for n != k the Stiefel manifold.

    y = Q phi(A) I_{n x k} D with A = [[S, -R^H], [R, 0]], S the skew-Hermitian matrix of the lower
    triangle of x's top k x k block and R the rest of x; Q and D move I_{n x k} to the state
    ``base`` (for n = k: y = base phi(S)). phi is ``"exp"`` (Lezcano-Casado, Martinez-Rubio, arXiv
    1901.08428, with the base of 1909.09501) or ``"cayley"``, phi(A) = (I - A/2)^-1 (I + A/2),
    cheaper, and less than half a turn from base. Square real y keep the sign of their
    determinant. Only the lower triangle (complex: and the imaginary diagonal) of the k x k block is
    read. Nothing is n x n for n > k.

    With ``"polar"`` y is the matrix nearest to x, x (x^H x)^(-1/2) (Higham 1986): all of x is read
    and there is no base. The scale of x changes nothing in y, and the gradient grows as 1 over the
    smallest singular value of x; ``retract`` sets x = y, for after many steps. A square real x that
    passes a singular matrix takes y into the other component; the other maps keep to one.

    With ``"householder"`` y = -H_1 ... H_k base, a product of reflectors H_j = I - 2 v_j v_j^H /
    |v_j|^2 in compact form (Schreiber and Van Loan 1989), v_j = e_j + the entries of x below the
    diagonal in column j; complex: |v_j|^2 + i Im x_jj divides, which turns the column's phase. The
    ``base`` is where x = 0 leads: the first columns of the identity, each with a sign (complex: a
    phase). The gradient falls as the columns of x grow; ``retract`` takes the signs with which they
    have at most the length 1 below the diagonal.

    Wide y are the conjugate transposes of tall ones.

    Args:
        map: ``"exp"``, ``"cayley"``, ``"polar"`` or ``"householder"``.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, k), any n and k; x and ``base`` have the shape of y. Dtypes: real, complex.
    ``right_inverse`` gives x = 0 and base = y, polished (polar: x = y, householder: the reflectors
    of a QR factorisation of y); ``project`` is the polar factor, which is nearest; ``sample`` is
    Haar; the residual is |y^H y - I|_F.

    Raises:
        OptionError: an unknown map.

    Example:
        >>> import torch
        >>> from constrainedparams import Orthogonal
        >>> y = Orthogonal()(torch.randn(6, 2))
        >>> torch.allclose(y.mT @ y, torch.eye(2), atol=1e-6)
        True
        >>> x, state = Orthogonal("cayley").right_inverse(y)
        >>> torch.allclose(Orthogonal("cayley")(x, **state), y, atol=1e-6)
        True
    """

    has_complex: ClassVar[bool] = True
    known: ClassVar[tuple[str, ...]] = ("exp", "cayley", "polar", "householder")

    @property
    def onto(self) -> str:
        if self.map == "polar":
            return "the whole set"
        return self._reached(
            "the component of the start (real square), the whole set (complex, or n != k)"
        )

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n, k = max(shape), min(shape)
        return 2 * n * k - k * k if is_complex else n * k - k * (k + 1) // 2
