"""The maps onto matrices with orthonormal columns, by name."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..numerics import orthogonal as maps
from ..numerics.householder import householder_from, householder_inverse, log_det_householder

__all__ = ["MAPS", "OrthonormalMap", "State"]

State = dict[str, Tensor]


class OrthonormalMap(NamedTuple):
    """f, what else is its own, and what the docs say of it; for tall and square matrices."""

    forward: Callable[[Tensor | None, Tensor], Tensor]  # (base, x) -> y
    inverse: Callable[[Tensor], tuple[Tensor, State]]
    log_det: Callable[[Tensor], Tensor] | None = None  # where f is one-to-one
    has_base: bool = True
    smooth: bool = True
    unreached: str = ""
    at_zero: str = "base, the value at the last right_inverse or retract"


def _from_here(y: Tensor) -> tuple[Tensor, State]:
    return torch.zeros_like(y), {"base": y}


def _from_axes(y: Tensor) -> tuple[Tensor, State]:
    x, base = householder_inverse(y)
    return x, {"base": base}


MAPS: dict[str, OrthonormalMap] = {
    "exp": OrthonormalMap(maps.exponential_from, _from_here),
    "cayley": OrthonormalMap(
        maps.cayley_from,
        _from_here,
        maps.log_det_cayley,
        unreached=", but for points half a turn from base",
    ),
    "householder": OrthonormalMap(
        householder_from,
        _from_axes,
        log_det_householder,
        unreached=", but for points where a column, reflected by those before it, is opposite to "
        "base's",
        at_zero="base: the first columns of the identity, each with a sign (complex: a phase)",
    ),
    "polar": OrthonormalMap(
        lambda _, x: maps.polar_factor(x),
        lambda y: (y, {}),
        has_base=False,
        smooth=False,  # not where x loses rank
        at_zero="itself; at x = 0 exactly, the first columns of the identity",
    ),
}
