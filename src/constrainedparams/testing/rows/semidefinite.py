"""Rows of the sets of positive semidefinite matrices."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...sets.density_matrix import DensityMatrix
from ...sets.fixed_rank_positive_semidefinite import FixedRankPositiveSemidefinite
from ...sets.positive_semidefinite import PositiveSemidefinite
from ..case import Case
from .points import bump, identity, isometry, spectrum

__all__ = ["ROWS"]

Points = dict[str, Callable[[Tensor], Tensor]]


def _diagonal(*values: float) -> Callable[[Tensor], Tensor]:
    return lambda y: torch.diag(torch.tensor(values, dtype=y.dtype)).expand(y.shape).clone()


def _corner(y: Tensor) -> Tensor:
    """Not symmetric."""
    return bump(y.flip(-1)).flip(-1)


def _normalised(y: Tensor) -> Tensor:
    return y / y.diagonal(dim1=-2, dim2=-1).sum()


_OFF: Points = {
    "asymmetric": _corner,
    "indefinite": lambda y: spectrum(y, 1.0, -1e-3),
    "negated": torch.neg,
}
_SHAPES = ((3,), (3, 2), (2, 3))

ROWS: tuple[Case, ...] = (
    Case(
        PositiveSemidefinite(),
        (3, 3),
        decay_target=torch.zeros_like,
        near_misses=_OFF,
        awkward={
            "zero": torch.zeros_like,
            "identity": identity,
            "rank one": _diagonal(0.0, 2.0, 0.0),
            "singular": lambda y: spectrum(y, 1.0, 0.0),
            "ill-conditioned": _diagonal(1.0, 1e-4, 1e-8),
        },
        bad_shapes=_SHAPES,
    ),
    Case(
        PositiveSemidefinite(rank=2),
        (3, 3),
        decay_target=torch.zeros_like,
        near_misses={**_OFF, "of rank three": lambda y: y + 1e-2 * identity(y)},
        awkward={"zero": torch.zeros_like, "rank one": _diagonal(0.0, 2.0, 0.0)},
        bad_shapes=(*_SHAPES, (1, 1)),
    ),
    Case(
        PositiveSemidefinite(1, view="(blocks i) j -> blocks i j", sizes={"blocks": 2}),
        (4, 2),
        decay_target=torch.zeros_like,
        near_misses={"of rank two": lambda y: y + 1e-2 * torch.eye(2).repeat(2, 1)},
        bad_shapes=((4,), (4, 4)),
        batched=False,
    ),
    Case(
        FixedRankPositiveSemidefinite(2),
        (4, 4),
        decay_target=lambda y: math.log(2.0) ** 2 * isometry(y, 2),
        near_misses={
            **_OFF,
            "of rank three": lambda y: y + 1e-2 * identity(y),
            "of rank one": _diagonal(1.0, 0.0, 0.0, 0.0),
            "zero": torch.zeros_like,
        },
        awkward={
            "repeated eigenvalues": _diagonal(0.0, 2.0, 2.0, 0.0),
            "ill-conditioned": _diagonal(0.0, 1.0, 1e-4, 0.0),
        },
        bad_shapes=((4,), (3, 2), (1, 1)),
    ),
    Case(
        DensityMatrix(),
        (3, 3),
        decay_target=lambda like: torch.full_like(like, 1 / 3),
        near_misses={**_OFF, "trace 1.001": lambda y: 1.001 * y, "zero": torch.zeros_like},
        awkward={
            "maximally mixed": lambda y: identity(y) / 3,
            "pure": _diagonal(0.0, 1.0, 0.0),
        },
        bad_shapes=(*_SHAPES, (0, 0)),
    ),
    Case(
        DensityMatrix(2),
        (3, 3),
        decay_target=lambda like: torch.full_like(like, 1 / 3),
        near_misses={
            **_OFF,
            "trace 1.001": lambda y: 1.001 * y,
            "of rank three": lambda y: identity(y) / 3,
        },
        awkward={"pure": _diagonal(0.0, 1.0, 0.0)},
        bad_shapes=(*_SHAPES, (1, 1)),
    ),
)
