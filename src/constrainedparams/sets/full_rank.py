"""Rectangular matrices of full rank."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..numerics import invertible as i
from ..numerics import orthogonal as maps
from ..numerics.elementary import precise, with_value
from .contract import Shape
from .matrix_constraint import MatrixConstraint

__all__ = ["FullRank"]

_MARGIN = 1e-3


@dataclass(frozen=True, repr=False)
class FullRank(MatrixConstraint):
    """n x k matrices of rank min(n, k): independent columns (tall) or rows (wide).

    Tall y = Q R, Q = base exp(S) I_{n x k} with the entries of x below the diagonal as in
    :class:`Orthogonal`, R = triu(x, 1) + diag(softplus(diag x)) as in :class:`Invertible`, which is
    the square case; wide y are the conjugate transposes of tall ones. Every entry of x is read
    once. The state ``base`` is the Q of the last y of ``right_inverse`` or ``retract``. Where R is
    singular to rounding its smallest singular values are raised to 6 k^1/2 rounding units.

    Args:
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, k); x and ``base`` have the shape of y. Dtypes: real, complex.
    ``right_inverse`` is the QR factorisation. The residual is how far the smallest singular value
    of y, with columns (wide: rows) of length 1, is below rounding. ``project`` raises singular
    values to a thousandth of the largest (of 1 for y = 0): nearest but for this margin. ``sample``
    has entries N(0, 1/n), n the longer side.

    Example:
        >>> import torch
        >>> from constrainedparams import FullRank
        >>> int(torch.linalg.matrix_rank(FullRank()(torch.randn(5, 3))))
        3
        >>> FullRank().contains(torch.ones(3, 2))
        tensor(False)
    """

    state_names: ClassVar[tuple[str, ...]] = ("base",)
    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the component of the start (square real), else the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "ln(2) base, the orthonormal factor of the start")

    def _factors(self, x: Tensor, base: Tensor | None) -> tuple[Tensor, Tensor]:
        """Q and R of a tall y."""
        start = None if base is None else maps.newton_schulz(base, 2)
        return maps.exponential_from(start, x), i.upper(x[..., : x.shape[-1], :])

    def _forward(self, x: Tensor, base: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if x.shape[-2] < x.shape[-1]:
            return self._forward(x.mH, None if base is None else base.mH).mH
        q, r = self._factors(x, base)
        slack = 6 * x.shape[-1] ** 0.5 * torch.finfo(x.dtype).eps
        return with_value(q @ r, q.detach() @ i.away_from_singular(r.detach(), slack))

    def _factorization(  # type: ignore[override]
        self, x: Tensor, base: Tensor | None = None
    ) -> dict[str, Tensor]:
        if x.shape[-2] < x.shape[-1]:
            q, r = self._factors(x.mH, None if base is None else base.mH)
            return {"left": r.mH, "right": q.mH}
        q, r = self._factors(x, base)
        return {"q": q, "r": r}

    def _right_inverse(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if y.shape[-2] < y.shape[-1]:
            x, state = self._right_inverse(y.mH)
            return x.mH, {"base": state["base"].mH}
        q, r = maps.positive_qr(precise(y))
        x = i.upper_inverse(r, y.dtype)
        return torch.nn.functional.pad(x, (0, 0, 0, y.shape[-2] - y.shape[-1])), {"base": q}

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._right_inverse(self._forward(x, **state))

    def _residual(self, y: Tensor) -> Tensor:
        tall = y if y.shape[-2] >= y.shape[-1] else y.mH
        return (2 * self._tolerance(tuple(y.shape), y.dtype) - i.separation(tall)).clamp_min(0)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 2 * min(shape[-2:]) ** 0.5 * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        return torch.where(off[..., None, None], i.clip_singular_values(y, _MARGIN, None), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        y = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        return self._project(y / max(*shape[-2:], 1) ** 0.5)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * shape[-2] * shape[-1]
