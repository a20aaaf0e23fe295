"""Rows of the sets of numbers."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...sets.angle import Angle
from ...sets.constants import as_tensor
from ...sets.greater_than import GreaterThan
from ...sets.half_line import HalfLine
from ...sets.interval import Interval
from ...sets.less_than import LessThan
from ...sets.non_negative import NonNegative
from ...sets.positive import Positive
from ..case import Case
from .points import bump

__all__ = ["ROWS"]


def _interval(constraint: Interval, shape: tuple[int, ...], middle: object, **more: object) -> Case:
    a, b = as_tensor(constraint.lower), as_tensor(constraint.upper)
    bounds = {
        "lower bound": lambda y: a.to(y).expand(y.shape).clone(),
        "upper bound": lambda y: b.to(y).expand(y.shape).clone(),
    }
    beyond = {
        "below": lambda y: (a - 1e-4).to(y).expand(y.shape).clone(),
        "above": lambda y: (b + 1e-4).to(y).expand(y.shape).clone(),
    }
    near = {"near a bound": lambda y: (a + 1e-3 * (b - a)).to(y).expand(y.shape).clone()}
    inside = {"left": ["lower bound"], "right": ["upper bound"], True: list(bounds), False: []}
    members = {name: bounds.pop(name) for name in inside[constraint.closed]}
    return Case(
        constraint,
        shape,
        decay_target=lambda like: torch.as_tensor(middle).to(like).expand(like.shape),
        near_misses={**beyond, **bounds},
        awkward={**near, **members},
        coordinates=None if constraint.closed else lambda y: y.flatten(),
        **more,  # type: ignore[arg-type]
    )


def _half_line(constraint: HalfLine, shape: tuple[int, ...], **more: object) -> Case:
    bound, sign, closed = as_tensor(constraint._bound), constraint._sign, constraint.closed

    def at(offset: float) -> Callable[[Tensor], Tensor]:
        """Numbers that far inside the bound."""
        return lambda y: (bound + sign * offset).to(y).expand(y.shape).clone()

    return Case(
        constraint,
        shape,
        decay_target=at(0.0 if closed else math.log(2.0)),
        near_misses={
            "just outside": at(-1e-6),
            "one entry off": at(-1.0),
            **({} if closed else {"the bound": at(0.0)}),
        },
        awkward={
            "near the bound": at(0.05),
            "far": at(1e4),
            **({"the bound": at(0.0)} if closed else {}),
        },
        coordinates=None if closed else lambda y: y.flatten(),
        **more,  # type: ignore[arg-type]
    )


_HALVES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

ROWS: tuple[Case, ...] = (
    _interval(Interval(0.0, 1.0), (3,), 0.5),
    _interval(Interval(-2.0, 2.0), (2, 2), 0.0),
    _interval(Interval(torch.tensor([0.0, -1.0]), 3.0), (2, 2), [1.5, 1.0], bad_shapes=((3,), ())),
    _interval(Interval(-1.0, 2.0, closed=True), (3,), 0.5),
    _interval(Interval(0.0, 1.0, closed="left"), (3,), 0.0, dtypes=_HALVES),
    _interval(
        Interval(torch.tensor([0.1, -3.0]), 2.0, closed="right"),
        (2, 2),
        [2.0, 2.0],
        bad_shapes=((3,), ()),
    ),
    Case(
        NonNegative(),
        (3,),
        decay_target=torch.zeros_like,
        near_misses={"just below": lambda y: bump(torch.zeros_like(y), -1e-6)},
        awkward={
            "zero": torch.zeros_like,
            "one entry zero": lambda y: bump(torch.zeros_like(y), 1.0),
        },
    ),
    Case(
        Positive(),
        (3,),
        decay_target=lambda like: torch.full_like(like, math.log(2.0)),
        near_misses={
            "zero": torch.zeros_like,
            "one entry zero": lambda y: bump(y, -float(y[0])),
            "just below": lambda y: torch.full_like(y, -1e-6),
        },
        awkward={
            "tiny": lambda y: torch.full_like(y, torch.finfo(y.dtype).tiny),
            "large": lambda y: torch.full_like(y, 1e4),
        },
        coordinates=lambda y: y.flatten(),
        dtypes=_HALVES,
    ),
    _half_line(GreaterThan(0.0), (3,), dtypes=_HALVES),
    _half_line(GreaterThan(torch.tensor([0.1, -3.0])), (2, 2), bad_shapes=((3,), ())),
    _half_line(GreaterThan(0.3, closed=True), (3,)),  # x^2 leaves the range of float16
    _half_line(LessThan(0.3), (3,), dtypes=_HALVES),
    _half_line(LessThan(torch.tensor([[1.0], [-1.0]])), (2, 2), bad_shapes=((3,), ())),
    _half_line(LessThan(torch.tensor([[1.0], [-1.1]]), closed=True), (2, 2), bad_shapes=((3,), ())),
    Case(
        Angle(),
        (3,),
        decay_target=torch.zeros_like,
        near_misses={
            "beyond pi": lambda y: torch.full_like(y, math.pi + 1e-5),
            "one entry beyond": lambda y: bump(y, 2 * math.pi + 1e-3),
        },
        awkward={
            "pi": lambda y: torch.full_like(y, math.pi),
            "minus pi": lambda y: torch.full_like(y, -math.pi),
        },
        dtypes=_HALVES,
    ),
)
