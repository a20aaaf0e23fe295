"""Rows of the sets of rectangular matrices: balls, bounded singular values, given ranks."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...sets.bounded_singular_values import BoundedSingularValues
from ...sets.fixed_rank import FixedRank
from ...sets.full_rank import FullRank
from ...sets.low_rank import LowRank
from ...sets.nuclear_norm_ball import NuclearNormBall
from ...sets.spectral_ball import SpectralBall
from ...sets.spectral_sphere import SpectralSphere
from ..case import Case
from .points import identity, isometry

__all__ = ["ROWS"]

Points = dict[str, Callable[[Tensor], Tensor]]


def _values(*values: float) -> Callable[[Tensor], Tensor]:
    """A matrix with these singular values."""

    def make(y: Tensor) -> Tensor:
        (n, k), r = y.shape[-2:], len(values)
        wave = torch.arange(1.0, n * n + k * k + 1, dtype=torch.float64).sin()
        u = torch.linalg.qr(wave[: n * n].reshape(n, n))[0][:, :r]
        v = torch.linalg.qr(wave[n * n :].reshape(k, k))[0][:, :r]
        return ((u * torch.tensor(values, dtype=torch.float64)) @ v.T).to(y.dtype)

    return make


def _padded(y: Tensor) -> Tensor:
    """The identity on the first two axes, 0 elsewhere."""
    y = torch.zeros_like(y)
    y[0, 0] = y[1, 1] = 1.0
    return y


def _free(y: Tensor) -> Tensor:
    y = y.resolve_conj()
    return torch.view_as_real(y).flatten() if y.is_complex() else y.flatten()


_SQUARED = math.log(2.0) ** 2
_BOUNDED = 0.5 + 1.5 * _SQUARED / (1 + _SQUARED)

ROWS: tuple[Case, ...] = (
    Case(
        SpectralBall(2.0),
        (3, 2),
        decay_target=torch.zeros_like,
        near_misses={"norm r": _values(2.0, 1.0), "above": _values(2.001, 0.0)},
        awkward={
            "zero": torch.zeros_like,
            "equal singular values": _values(1.5, 1.5),
            "near the boundary": _values(1.998, 0.1),
        },
        bad_shapes=((3,), ()),
        coordinates=_free,
    ),
    Case(
        SpectralBall(view="o i h w -> o (i h w)"),
        (2, 1, 1, 3),
        decay_target=torch.zeros_like,
        near_misses={"above": lambda y: y + 1.0},
        bad_shapes=((2, 3),),
        coordinates=_free,
        batched=False,
    ),
    Case(
        SpectralSphere(2.0),
        (3, 2),
        decay_target=lambda like: torch.full_like(like, 2 * 6**-0.5),
        near_misses={"scaled by 1.001": lambda y: 1.001 * y, "zero": torch.zeros_like},
        awkward={"equal singular values": _values(2.0, 2.0), "of rank one": _values(2.0)},
        bad_shapes=((3,), (0, 2)),
    ),
    Case(
        SpectralSphere(),
        (2, 4),
        decay_target=lambda like: torch.full_like(like, 8**-0.5),
        near_misses={"scaled by 1.001": lambda y: 1.001 * y},
        bad_shapes=((3,), (2, 0)),
    ),
    Case(
        NuclearNormBall(2.0),
        (3, 2),
        decay_target=torch.zeros_like,
        near_misses={"above": _values(1.5, 0.501)},
        awkward={
            "zero": torch.zeros_like,
            "inside": _values(0.5, 0.5),
            "at the bound": _values(1.5, 0.5),
            "at the bound, of rank one": _values(2.0),
        },
        bad_shapes=((3,), (0, 2)),
    ),
    Case(
        NuclearNormBall(view="(i h) o -> h o i", sizes={"h": 2}),
        (6, 2),
        decay_target=torch.zeros_like,
        near_misses={"above": lambda y: y + 2.0},
        bad_shapes=((3,), (5, 2)),
        batched=False,
    ),
    Case(
        BoundedSingularValues(0.5, 2.0),
        (3, 2),
        decay_target=lambda y: _BOUNDED * isometry(y, 2),
        near_misses={
            "at the upper bound": _values(2.0, 1.0),
            "at the lower bound": _values(1.0, 0.5),
            "above": _values(2.01, 1.0),
            "below": _values(1.0, 0.49),
            "zero": torch.zeros_like,
        },
        awkward={
            "orthonormal": identity,
            "equal singular values": _values(1.9, 1.9),
            "near the bounds": _values(2.0 - 1e-4, 0.5 + 1e-4),
        },
        bad_shapes=((3,), ()),
    ),
    Case(
        BoundedSingularValues(0.0, 1.0),
        (2, 2),
        decay_target=lambda y: _SQUARED / (1 + _SQUARED) * isometry(y, 2),
        near_misses={"singular": _values(0.5, 0.0), "orthogonal": identity},
        awkward={"determinant below 0": lambda y: 0.5 * identity(y).flip(-1)},
    ),
    Case(
        LowRank(2),
        (4, 3),
        decay_target=torch.zeros_like,
        near_misses={"of rank three": _values(1.0, 0.5, 1e-2), "identity": identity},
        awkward={
            "equal singular values": _values(1.0, 1.0),
            "columns of zeros": lambda y: _padded(y).flip(-1),
            "rows of zeros": lambda y: _padded(y).flip(-2),
        },
        bad_shapes=((3,), (1, 3), (3, 1)),
    ),
    Case(
        LowRank(1, view="(i h) o -> h o i", sizes={"h": 2}),
        (4, 3),
        decay_target=torch.zeros_like,
        near_misses={"of rank two": lambda y: y + torch.eye(4, 3)},
        bad_shapes=((3,), (5, 2)),
        batched=False,
    ),
    Case(
        FixedRank(2),
        (4, 3),
        decay_target=lambda y: _SQUARED * isometry(y, 2),
        near_misses={
            "of rank three": _values(1.0, 0.5, 1e-2),
            "of rank one": _values(1.0),
            "zero": torch.zeros_like,
        },
        awkward={
            "equal singular values": _values(1.0, 1.0),
            "columns of zeros": lambda y: _padded(y).flip(-1),
            "ill-conditioned": _values(1.0, 1e-4),
        },
        bad_shapes=((3,), (1, 3), (3, 1)),
    ),
    Case(
        FullRank(),
        (4, 2),
        decay_target=lambda base: math.log(2.0) * base,
        near_misses={"equal columns": torch.ones_like, "zero": torch.zeros_like},
        awkward={
            "orthonormal": identity,
            "ill-conditioned": _values(1.0, 1e-4),
            "columns of many sizes": lambda y: identity(y) * (10.0 ** -identity(y)[0]),
        },
        bad_shapes=((3,), ()),
    ),
    Case(
        FullRank(),
        (2, 3),
        decay_target=lambda base: math.log(2.0) * base,
        near_misses={"equal rows": torch.ones_like},
        bad_shapes=((3,),),
    ),
)
