"""Tall matrices with orthonormal columns."""

from dataclasses import dataclass
from typing import ClassVar

from .contract import Shape
from .orthonormal import Orthonormal

__all__ = ["Stiefel"]


@dataclass(frozen=True, repr=False)
class Stiefel(Orthonormal):
    """St(n, k): n x k matrices with n >= k and y^H y = I.

    The map is that of :class:`Orthogonal`, which takes wide matrices too: y = Q phi(A) I_{n x k} D
    with A = [[S, -R^H], [R, 0]], S the skew-Hermitian matrix of the lower triangle of x's top k x k
    block and R the rest of x; Q and D move I_{n x k} to the state ``base``; phi is exp
    (Lezcano-Casado, arXiv 1909.09501) or the Cayley map (I - A/2)^-1 (I + A/2). Nothing is n x n.
    With ``"polar"`` y is the matrix nearest to x, x (x^H x)^(-1/2), without a base; with
    ``"householder"`` it is a product of reflectors with base the signed first columns of the
    identity (:class:`Orthogonal`).

    Args:
        map: ``"exp"``; ``"cayley"``: cheaper, and less than half a turn from base; ``"polar"``: as
            cheap, all of x is read, and its scale changes nothing in y; ``"householder"``: as cheap
            as Cayley without a base.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, k) with n >= k; x and ``base`` have the shape of y. Dtypes: real, complex.
    ``right_inverse`` gives x = 0 and base = y, polished (polar: x = y, householder: the reflectors
    of a QR factorisation of y); ``project`` is the polar factor, which is nearest; ``sample`` is
    Haar; the residual is |y^H y - I|_F.

    Raises:
        OptionError: an unknown map.
        ShapeError: fewer rows than columns.

    Example:
        >>> import torch
        >>> from constrainedparams import Stiefel
        >>> y = Stiefel().sample((5, 2))
        >>> torch.allclose(y.mT @ y, torch.eye(2), atol=1e-6)
        True
        >>> Stiefel(view="k n -> n k").sample((2, 5)).shape
        torch.Size([2, 5])
    """

    has_complex: ClassVar[bool] = True
    known: ClassVar[tuple[str, ...]] = ("exp", "cayley", "polar", "householder")

    @property
    def onto(self) -> str:
        if self.map == "polar":
            return "the whole set"
        return self._reached(
            "the whole set (real n = k: the matrices whose determinant has the sign of base's)"
        )

    def _check(self, shape: Shape) -> str | None:
        if shape[-2] >= shape[-1]:
            return None
        return (
            "expected at least as many rows as columns. For orthonormal rows use Orthogonal(), or "
            'read the transpose: view="k n -> n k".'
        )

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n, k = shape
        return 2 * n * k - k * k if is_complex else n * k - k * (k + 1) // 2
