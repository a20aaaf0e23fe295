"""What sets of matrices with orthonormal columns share: the map from a base, and the base."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import orthogonal as maps
from ..numerics.elementary import oriented
from .contract import Shape
from .matrix_constraint import MatrixConstraint
from .orthonormal_maps import MAPS, State

__all__ = ["Orthonormal"]


@dataclass(frozen=True, repr=False)
class Orthonormal(MatrixConstraint):
    """y = Q phi(A) I_{n x k} D with A = [[S, -R^H], [R, 0]]; the formula is in :class:`Orthogonal`.

    A set of this family implements what tells it from the others: its shapes, its dimension, which
    maps it has, and whether determinants are 1. Wide y are the conjugate transposes of tall ones.
    """

    map: Literal["exp", "cayley", "polar", "householder"] = "exp"

    known: ClassVar[tuple[str, ...]] = ("exp", "cayley")
    refused: ClassVar[dict[str, str]] = {}  # map -> why this set does not have it
    special: ClassVar[bool] = False
    state_names = property(lambda self: ("base",) if MAPS[self.map].has_base else ())
    smooth = property(lambda self: MAPS[self.map].smooth)
    one_to_one = property(lambda self: MAPS[self.map].log_det is not None)
    decay_target = property(lambda self: MAPS[self.map].at_zero)

    def _check_options(self) -> None:
        if not isinstance(self.map, str) or self.map not in self.known:
            reason = self.refused.get(str(self.map), "")
            names = ", ".join(map(repr, self.known))
            raise OptionError(f"map={self.map!r}: expected one of {names}.{reason}")

    def _reached(self, what: str) -> str:
        """``what`` is reached from base, but for what the map leaves out."""
        return what + MAPS[self.map].unreached

    def _tangent(self, x: Tensor) -> Tensor:
        """x (..., n, k), n >= k, with what the set does not read set to 0."""
        return x

    def _forward(self, x: Tensor, base: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if x.shape[-2] < x.shape[-1]:
            return self._forward(x.mH, None if base is None else base.mH).mH
        y = MAPS[self.map].forward(base, self._tangent(x))
        return maps.without_phase(y) if self.special else y

    def _right_inverse(self, y: Tensor) -> tuple[Tensor, State]:
        inverse, near = MAPS[self.map].inverse, self._project(y)
        if y.shape[-2] >= y.shape[-1]:
            return inverse(near)
        x, state = inverse(near.mH)
        return x.mH, {name: t.mH for name, t in state.items()}

    def _log_abs_det_jacobian(self, x: Tensor, **state: Tensor) -> Tensor:
        found = MAPS[self.map].log_det
        if found is None or not self.one_to_one:
            return super()._log_abs_det_jacobian(x, **state)
        return found(x if x.shape[-2] >= x.shape[-1] else x.mH)

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, State]:
        return self._right_inverse(self._forward(x, **state))

    def _residual(self, y: Tensor) -> Tensor:
        y = y if y.shape[-2] >= y.shape[-1] else y.mH
        off = maps.defect(y)
        if self.special:
            off = off + maps.determinant_gap(y)
        return off.to(y.real.dtype)

    def _project(self, y: Tensor) -> Tensor:
        nearest = maps.special if self.special else maps.polar
        return nearest(y) if y.shape[-2] >= y.shape[-1] else nearest(y.mH).mH

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        *batch, n, k = shape
        tall = (*batch, max(n, k), min(n, k))
        draw = torch.randn(tall, dtype=like.dtype, device=like.device, generator=generator)
        y = oriented(maps.haar(draw)) if self.special else maps.haar(draw)
        return y if n >= k else y.mH

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        # Entries of size n^-1/2 rounded to eps move y^H y by about eps k^1/2; maps and sums of n
        # products in the dtype of the computation add up to eps n.
        n, k = max(shape[-2:]), min(shape[-2:])
        eps = torch.finfo(dtype).eps
        return 2 * eps * k**0.5 + 8 * min(eps, torch.finfo(torch.float32).eps) * n
