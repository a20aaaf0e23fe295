"""What sets of matrices with orthonormal columns share: the map from a base, and the base."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import orthogonal as maps
from ..numerics.elementary import oriented
from ..numerics.householder import householder_from, householder_inverse, log_det_householder
from .contract import Shape
from .matrix_constraint import MatrixConstraint

__all__ = ["Orthonormal"]

State = dict[str, Tensor]


class _Map(NamedTuple):
    """f and what else is its own; for tall and square matrices."""

    forward: Callable[[Tensor | None, Tensor], Tensor]  # (base, x) -> y
    inverse: Callable[[Tensor], tuple[Tensor, State]]
    log_det: Callable[[Tensor], Tensor] | None = None  # where f is one-to-one
    unreached: str = ""
    at_zero: str = "base, the value at the last right_inverse or retract"


def _from_here(y: Tensor) -> tuple[Tensor, State]:
    return torch.zeros_like(y), {"base": y}


def _from_axes(y: Tensor) -> tuple[Tensor, State]:
    x, base = householder_inverse(y)
    return x, {"base": base}


_POLAR = "polar"
_MAPS = {
    "exp": _Map(maps.exponential_from, _from_here),
    "cayley": _Map(
        maps.cayley_from, _from_here, maps.log_det_cayley, ", but for points half a turn from base"
    ),
    "householder": _Map(
        householder_from,
        _from_axes,
        log_det_householder,
        ", but for points where a column, reflected by those before it, is opposite to base's",
        "base: the first columns of the identity, each with a sign (complex: a phase)",
    ),
    _POLAR: _Map(
        lambda _, x: maps.polar_factor(x),
        lambda y: (y, {}),
        at_zero="itself; at x = 0 exactly, the first columns of the identity",
    ),
}


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
    state_names = property(lambda self: () if self.map == _POLAR else ("base",))
    smooth = property(lambda self: self.map != _POLAR)  # not where x loses rank
    one_to_one = property(lambda self: _MAPS[self.map].log_det is not None)

    decay_target = property(lambda self: _MAPS[self.map].at_zero)

    def _check_options(self) -> None:
        if not isinstance(self.map, str) or self.map not in self.known:
            reason = self.refused.get(str(self.map), "")
            names = ", ".join(map(repr, self.known))
            raise OptionError(f"map={self.map!r}: expected one of {names}.{reason}")

    def _reached(self, what: str) -> str:
        """``what`` is reached from base, but for what the map leaves out."""
        return what + _MAPS[self.map].unreached

    def _tangent(self, x: Tensor) -> Tensor:
        """x (..., n, k), n >= k, with what the set does not read set to 0."""
        return x

    def _forward(self, x: Tensor, base: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if x.shape[-2] < x.shape[-1]:
            return self._forward(x.mH, None if base is None else base.mH).mH
        y = _MAPS[self.map].forward(base, self._tangent(x))
        return maps.without_phase(y) if self.special else y

    def _right_inverse(self, y: Tensor) -> tuple[Tensor, State]:
        inverse, near = _MAPS[self.map].inverse, self._project(y)
        if y.shape[-2] >= y.shape[-1]:
            return inverse(near)
        x, state = inverse(near.mH)
        return x.mH, {name: t.mH for name, t in state.items()}

    def _log_abs_det_jacobian(self, x: Tensor, **state: Tensor) -> Tensor:
        found = _MAPS[self.map].log_det
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
