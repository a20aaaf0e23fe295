"""Rows of the sets of vectors."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...sets.affine_subspace import AffineSubspace
from ...sets.ball import Ball
from ...sets.magnitude_direction import MagnitudeDirection
from ...sets.simplex import Simplex
from ...sets.sphere import Sphere
from ...sets.sum_to_zero import SumToZero
from ..case import Case
from .points import bump

__all__ = ["ROWS"]


def _sphere(constraint: Sphere, shape: tuple[int, ...], n: int, **more: object) -> Case:
    def first(y: Tensor) -> Tensor:
        """r e_1 where e_1 is a vector of the set: most entries are 0."""
        return constraint.project(bump(torch.zeros_like(y), 1.0))

    return Case(
        constraint,
        shape,
        decay_target=lambda like: torch.full_like(like, constraint.radius * n**-0.5),
        near_misses={
            "scaled by 1.001": lambda y: 1.001 * y,
            "one entry off": lambda y: bump(y, constraint.radius),
            "zero": torch.zeros_like,
        },
        awkward={"entries that are 0": first},
        **more,  # type: ignore[arg-type]
    )


def _simplex(constraint: Simplex, shape: tuple[int, ...], n: int, **more: object) -> Case:
    def edge(y: Tensor, last: float) -> Tensor:
        """Every vector ends with ``last``, which its first entry pays for; the rest is 1/n."""
        rows = constraint._read(torch.full_like(y, 1 / n)).clone()
        rows[..., 0] += 1 / n - last
        rows[..., -1] = last
        return constraint._write(rows, tuple(y.shape)).contiguous()

    # Not a vertex: there all slopes are 1e-8, and rounding hides the rank.
    zeros = {"an entry that is 0": lambda y: edge(y, 0.0)}
    return Case(
        constraint,
        shape,
        decay_target=lambda like: torch.full_like(like, 1 / n),
        near_misses={
            "scaled by 1.001": lambda y: 1.001 * y,
            "a negative entry": lambda y: edge(y, -1e-4),
            "zero": torch.zeros_like,
            **({} if constraint.closed else zeros),
        },
        awkward={
            "uniform": lambda y: torch.full_like(y, 1 / n),
            "near an edge": lambda y: edge(y, 1e-4),
            **(zeros if constraint.closed else {}),
        },
        dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.float16),
        **more,  # type: ignore[arg-type]
    )


_MASK = [[True, True, False], [True, True, True]]


def _masked(constraint: Simplex, shape: tuple[int, ...]) -> Case:
    """One row of two free entries and one of three."""

    def uniform(y: Tensor) -> Tensor:
        table = torch.tensor(_MASK).to(y.dtype)
        table = table / table.sum(-1, keepdim=True)
        return (table if y.shape[-1] == 3 else table.mT).contiguous()

    return Case(
        constraint,
        shape,
        decay_target=uniform,
        near_misses={
            "an entry that the mask forbids": lambda y: y + 1e-4 * (y == 0),
            "all entries": lambda y: torch.full_like(y, 1 / 3 if y.shape[-1] == 3 else 0.5),
            "zero": torch.zeros_like,
            "one entry off": bump,
        },
        awkward={"uniform": uniform},
        batched=constraint.dim == -1,
        bad_shapes=((2, 4), (3,) if constraint.dim == -1 else (2, 3)),
    )


def _ball(constraint: Ball, shape: tuple[int, ...], **more: object) -> Case:
    r = constraint.radius

    def axis(size: float) -> Callable[[Tensor], Tensor]:
        """Every vector of that norm along its first axis."""

        def make(y: Tensor) -> Tensor:
            rows = constraint._read(torch.zeros_like(y)).clone()
            rows[..., 0, 0] = size
            return constraint._write(rows, tuple(y.shape)).contiguous()

        return make

    return Case(
        constraint,
        shape,
        decay_target=torch.zeros_like,
        near_misses={
            "just outside": axis(1.0001 * r),
            "far outside": lambda y: torch.full_like(y, 2 * r),
            **({} if constraint.closed else {"the boundary": axis(r)}),
        },
        awkward={
            "zero": torch.zeros_like,
            "near the boundary": axis(0.99 * r),
            **({"the boundary": axis(r)} if constraint.closed else {}),
        },
        coordinates=None if constraint.closed else lambda y: _numbers(y).flatten(),
        **{"bad_shapes": ((), (3, 0)), **more},  # type: ignore[arg-type]
    )


def _numbers(y: Tensor) -> Tensor:
    return torch.view_as_real(y) if y.is_complex() else y


def _first(y: Tensor) -> Tensor:
    return bump(torch.zeros_like(y), 1.0)


def _affine(constraint: AffineSubspace, shape: tuple[int, ...], nearest: object) -> Case:
    point = torch.tensor(nearest, dtype=torch.float64)

    return Case(
        constraint,
        shape,
        decay_target=lambda like: point.to(like.dtype).expand(like.shape),
        near_misses={
            "one entry off": lambda y: bump(y, 1e-2),
            "zero": torch.zeros_like,
            "scaled by 1.001": lambda y: 1.001 * y,
        },
        awkward={"large": lambda y: constraint.project(torch.full_like(y, 1e6))},
        bad_shapes=((), (2, 4)),
    )


_ONES = [[1.0, 1.0, 1.0, 1.0]]

ROWS: tuple[Case, ...] = (
    _ball(Ball(), (3,)),
    _ball(
        Ball(2.0, 1),
        (3,),
        broken={
            "second_derivative_is_right": "|x|_1 has kinks at entries that are 0, as projection "
            "leaves them"
        },
    ),
    _ball(Ball(0.5, math.inf, dim=0), (2, 2), batched=False, bad_shapes=((), (0, 3))),
    _ball(Ball(2.0, closed=True), (3,)),
    _ball(Ball(2.0, 1, closed=True), (3,)),
    _ball(Ball(3.0, math.inf, closed=True), (3,)),
    _ball(
        Ball(1.0, 1, closed=True, dim=(1, 2)), (2, 2, 2), batched=False, bad_shapes=((), (2, 0, 2))
    ),
    Case(
        MagnitudeDirection(),
        (3,),
        decay_target=lambda like: torch.full_like(like, math.log(2.0) * 3**-0.5),
        near_misses={"zero": torch.zeros_like},
        awkward={
            "an axis": lambda y: bump(torch.zeros_like(y), 1.0),
            "short": lambda y: bump(torch.zeros_like(y), 1e-3),
            "large": lambda y: torch.full_like(y, 1e30),
        },
        bad_shapes=((), (3, 0)),
    ),
    Case(
        MagnitudeDirection(dim=(1, 2)),
        (2, 2, 1),
        decay_target=lambda like: torch.full_like(like, math.log(2.0) * 2**-0.5),
        near_misses={"zero": torch.zeros_like},
        batched=False,
        bad_shapes=((), (3,), (2, 0, 2)),
    ),
    _affine(AffineSubspace([[1.0, 2.0, 2.0]], 3.0), (3,), [1 / 3, 2 / 3, 2 / 3]),
    _affine(
        AffineSubspace([[1.0, 0.0, 0.0], [0.0, 0.0, 1e-3], [2.0, 0.0, 0.0]], [0.5, 1e-3, 1.0]),
        (3,),
        [0.5, 0.0, 1.0],
    ),
    Case(
        SumToZero(),
        (4,),
        decay_target=torch.zeros_like,
        near_misses={"ones": torch.ones_like, "one entry off": bump},
        awkward={
            "zero": torch.zeros_like,
            "beside a large mean": lambda y: SumToZero()(bump(torch.full_like(y, 1e6))),
        },
        bad_shapes=((),),
    ),
    Case(
        SumToZero(dim=(0, 1)),
        (3, 2),
        decay_target=torch.zeros_like,
        near_misses={
            "rows only": lambda y: bump(torch.zeros_like(y)) - bump(torch.zeros_like(y)).flip(0),
            "one entry off": bump,
        },
        batched=False,
        bad_shapes=((3,),),
    ),
    Case(
        SumToZero(dim=None, joint=True),
        (2, 2),
        decay_target=torch.zeros_like,
        near_misses={"ones": torch.ones_like, "one entry off": bump},
        batched=False,
    ),
    Case(
        Sphere(2.0, _ONES),
        (4,),
        decay_target=lambda like: (4 * _first(like) - 1) / 3**0.5,
        near_misses={"one entry off": bump, "scaled by 1.001": lambda y: 1.001 * y},
        awkward={"two entries": lambda y: 2**0.5 * (_first(y) - _first(y).flip(-1))},
        bad_shapes=((), (3,)),
    ),
    _sphere(Sphere(), (4,), 4, bad_shapes=((), (3, 0))),
    _sphere(Sphere(3.0, dim=0), (4, 2), 4, batched=False, bad_shapes=((), (0, 3))),
    _sphere(Sphere(dim=(0, -1)), (2, 3, 2), 4, batched=False, bad_shapes=((3,),)),
    _sphere(Sphere(0.5, dim=None), (2, 3), 6, batched=False, bad_shapes=((0,),)),
    _simplex(Simplex(), (4,), 4, bad_shapes=((), (3, 0))),
    _simplex(Simplex(dim=0), (3, 2), 3, batched=False, bad_shapes=((), (0, 3))),
    _simplex(Simplex(closed=True), (4,), 4, bad_shapes=((), (3, 0))),
    _masked(Simplex(mask=_MASK), (2, 3)),
    _masked(Simplex(closed=True, mask=_MASK), (2, 3)),
    _masked(Simplex(mask=[list(row) for row in zip(*_MASK, strict=True)], dim=0), (3, 2)),
    _simplex(Simplex(closed=True, dim=None), (2, 3), 6, batched=False, bad_shapes=((0,),)),
)
