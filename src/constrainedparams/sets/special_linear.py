"""Square matrices with determinant 1."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..numerics import invertible as i
from ..numerics import orthogonal as maps
from ..numerics.elementary import oriented, precise, real_diagonal
from .contract import Shape
from .matrix_constraint import MatrixConstraint, not_square

__all__ = ["SpecialLinear"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class SpecialLinear(MatrixConstraint):
    """SL(n): determinant 1.

    y = Q R with Q = base exp(S), S the traceless skew-Hermitian matrix of the lower triangle of x,
    and R = triu(x, 1) + diag(s / geometric mean of s), s = softplus(diag x) + 0.01: the Iwasawa
    decomposition, as in :class:`Invertible`. Only the ratios of s matter, so the 0.01 excludes
    nothing, and large x do not overflow as exp(x) would. The state ``base`` is orthogonal with
    determinant 1 (special unitary): the Q of the last y of ``right_inverse`` or ``retract``.

    Args:
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, n), n > 0; x and ``base`` have the shape of y. Dtypes: real, complex.
    The residual is the change of the smallest singular value, or of all together, that makes the
    determinant 1, as a share of |y|: rounding moves the determinant itself by up to |y| |y^-1|
    rounding units. ``project`` divides by the n-th root of the determinant; where that is not above
    0 it first moves singular values to at least a thousandth of the largest, and the smallest
    through 0. ``sample`` is a Gaussian matrix with the sign of a column chosen, projected.

    Raises:
        ShapeError: not square.

    Example:
        >>> import torch
        >>> from constrainedparams import SpecialLinear
        >>> torch.linalg.det(SpecialLinear()(torch.randn(3, 3)))
        tensor(1.0000)
        >>> SpecialLinear().contains(torch.diag(torch.tensor([2.0, 0.5])))
        tensor(True)
    """

    has_complex: ClassVar[bool] = True
    state_names: ClassVar[tuple[str, ...]] = ("base",)
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "base, the orthogonal factor of the start")

    def _check(self, shape: Shape) -> str | None:
        if shape[-1] == 0:
            return "expected at least one row and one column."
        return not_square(shape, "For a tall weight use a set such as Stiefel.")

    def _rotation(self, x: Tensor, base: Tensor | None) -> Tensor:
        # A base that was cast is orthogonal to the rounding of that dtype only.
        start = None if base is None else maps.newton_schulz(base, 2)
        return maps.exponential_from(start, i.without_trace(x))

    def _forward(self, x: Tensor, base: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return self._rotation(x, base) @ i.upper_of_determinant_one(x)

    def _factorization(  # type: ignore[override]
        self, x: Tensor, base: Tensor | None = None
    ) -> dict[str, Tensor]:
        return {"q": self._rotation(x, base), "r": i.upper_of_determinant_one(x)}

    def _right_inverse(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        q, r = maps.positive_qr(precise(y) if y.is_complex() else i.with_positive_determinant(y))
        return i.upper_of_determinant_one_inverse(r), {"base": q}

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        real = torch.diag_embed(real_diagonal(x))
        return x.triu(1) + real, {"base": self._rotation(x, state.get("base"))}

    def _residual(self, y: Tensor) -> Tensor:
        return i.distance_from_determinant_one(y)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 4 * shape[-1] ** 0.5 * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        wide = precise(y)
        sign = torch.linalg.slogdet(wide)[0]
        wrong = (sign.abs() < 0.5 if y.is_complex() else sign <= 0)[..., None, None]
        turned = i.clip_singular_values(wide, _MARGIN, None if y.is_complex() else 1)
        wide = torch.where(wrong, turned, wide)
        sign, log = torch.linalg.slogdet(wide)
        root = torch.exp(-log / y.shape[-1])
        if y.is_complex():
            root = torch.polar(root, -sign.angle() / y.shape[-1])
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        return torch.where(off[..., None, None], (root[..., None, None] * wide).to(y.dtype), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        y = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        return self._project(y if y.is_complex() else oriented(y))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * (shape[-1] ** 2 - 1)
