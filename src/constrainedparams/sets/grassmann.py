"""Subspaces: k-dimensional ones of n-dimensional space, held as an orthonormal basis."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .contract import Shape
from .orthonormal import Orthonormal

__all__ = ["Grassmann"]


@dataclass(frozen=True, repr=False)
class Grassmann(Orthonormal):
    """Gr(k, n): the span of the k columns of y; y is an orthonormal basis of it, y^H y = I.

    Only the span means something: a loss should have the same value at y and y U, U unitary, as
    functions of the projector y y^H have. y = Q phi(A) I_{n x k} D with A = [[0, -R^H], [R, 0]],
    R the rows of x below its top k x k block (which is not read); Q and D move I_{n x k} to the
    state ``base``. phi is exp, so that x = t X is a geodesic whose principal angles with base are t
    times the singular values of R (Edelman, Arias, Smith, arXiv physics/9806030, section 2.5), or
    the Cayley map (I - A/2)^-1 (I + A/2), with angles 2 arctan(t sigma / 2). Of all bases of its
    span y is the one parallel to base along that geodesic. Nothing is n x n.

    Args:
        map: ``"exp"`` or ``"cayley"`` (cheaper).
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, k) with n >= k; x and ``base`` have the shape of y. Dtypes: real, complex.
    ``right_inverse`` gives x = 0 and base = y, polished: f(x) is y, not another basis. ``project``
    is the polar factor: the nearest orthonormal basis, with the span of a y of full rank.
    ``sample`` is uniform; the residual is |y^H y - I|_F, the same for all y U.

    Raises:
        OptionError: an unknown map.
        ShapeError: fewer rows than columns.

    Example:
        >>> import torch
        >>> from constrainedparams import Grassmann
        >>> x = torch.tensor([[9.0], [0.0], [torch.pi / 2]])
        >>> Grassmann()(x).abs().round(decimals=3).flatten().tolist()
        [0.0, 0.0, 1.0]
    """

    has_complex: ClassVar[bool] = True
    refused: ClassVar[dict[str, str]] = {
        "polar": ' A loss of the span has the same value with Stiefel(map="polar").',
        "householder": " It reads a basis, and has no base to be near to. A loss of the span has "
        'the same value with Stiefel(map="householder").',
    }
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)

    def _check(self, shape: Shape) -> str | None:
        if shape[-2] >= shape[-1]:
            return None
        return (
            "expected at least as many rows as columns: the columns span the subspace. For the "
            'span of the rows read the transpose: view="k n -> n k".'
        )

    def _tangent(self, x: Tensor) -> Tensor:
        k = x.shape[-1]
        return torch.cat((torch.zeros_like(x[..., :k, :]), x[..., k:, :]), dim=-2)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n, k = shape
        return (2 if is_complex else 1) * k * (n - k)
