"""Rows of the sets of sequences: ordered and convex vectors."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...sets.convex import Convex
from ...sets.monotone import Monotone
from ...sets.ordered import Ordered
from ...sets.positive_ordered import PositiveOrdered
from ...sets.simplex import Simplex
from ..case import Case

__all__ = ["ROWS"]


def _ordered(constraint: Monotone, shape: tuple[int, ...], n: int, **more: object) -> Case:
    step = (math.log(2.0) + constraint._gap) * constraint._sign
    places = torch.arange(n) + (1 if constraint._positive else 0)

    def vectors(entries: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Every vector of the tensor made from its places 0, 1, ..., or 1, 2, ..."""

        def make(y: Tensor) -> Tensor:
            rows = entries(constraint._sign * places.double()).expand(constraint._read(y).shape)
            return constraint._write(rows.to(y.dtype), tuple(y.shape)).contiguous()

        return make

    near_misses = {
        "two equal": vectors(lambda p: p * (p.abs() != p.abs().max())),
        "turned round": vectors(lambda p: p.flip(0) + 0.0),
        "a constant": torch.ones_like,
    }
    if constraint._gap:
        near_misses["too close"] = vectors(lambda p: 0.99 * constraint._gap * p)
    if constraint._positive:
        near_misses["the first is 0"] = vectors(lambda p: p - 1)
        near_misses["the first is negative"] = vectors(lambda p: p - 1.001)
    least = constraint._gap + 1e-3
    return Case(
        constraint,
        shape,
        decay_target=vectors(lambda p: p * step * constraint._sign),
        near_misses=near_misses,
        awkward={
            "small steps": vectors(lambda p: p * least),
            "large steps": vectors(lambda p: p * 1e4),
        },
        coordinates=lambda y: y.flatten(),
        dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.float16),
        **more,  # type: ignore[arg-type]
    )


def _convex(constraint: Convex, shape: tuple[int, ...], **more: object) -> Case:
    def along(entries: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Every sequence made from its places 0, 1, ..."""

        def make(y: Tensor) -> Tensor:
            rows = constraint._read(y)
            places = torch.arange(rows.shape[-1], dtype=torch.float64)
            return constraint._write(
                entries(places).expand(rows.shape).to(y.dtype), tuple(y.shape)
            ).contiguous()

        return make

    return Case(
        constraint,
        shape,
        decay_target=along(lambda p: p * (p - 1) / 2 * math.log(2.0)),
        near_misses={
            "concave": along(lambda p: -1e-3 * p * p),
            "one entry up": along(lambda p: p + 1e-3 * (p == 1)),
        },
        awkward={
            "nearly straight": along(lambda p: p + 1e-3 * p * p),
            "a minimum": along(lambda p: (p - 1.5) ** 2),
        },
        coordinates=lambda y: y.flatten(),
        bad_shapes=((),),
        **more,  # type: ignore[arg-type]
    )


def _ordered_simplex(constraint: Simplex, shape: tuple[int, ...], **more: object) -> Case:
    def along(entries: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Every vector made from its places 0, 1, ..., with sum 1."""

        def make(y: Tensor) -> Tensor:
            rows = constraint._read(y)
            made = entries(torch.arange(rows.shape[-1], dtype=torch.float64))
            made = (made / made.sum()).expand(rows.shape).to(y.dtype)
            return constraint._write(made, tuple(y.shape)).contiguous()

        return make

    return Case(
        constraint,
        shape,
        decay_target=along(lambda p: 2.0**p),
        near_misses={
            "uniform": along(torch.ones_like),
            "descending": along(lambda p: 10 - p),
            "a zero": along(lambda p: p),
            "scaled by 1.001": lambda y: 1.001 * y,
        },
        awkward={"small steps": along(lambda p: 10 + p), "large steps": along(lambda p: 30.0**p)},
        dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.float16),
        **more,  # type: ignore[arg-type]
    )


ROWS: tuple[Case, ...] = (
    _ordered_simplex(Simplex(ordered=True), (4,), bad_shapes=((), (3, 0))),
    _ordered_simplex(Simplex(ordered=True, dim=0), (3, 2), batched=False),
    _ordered(Ordered(), (4,), 4, bad_shapes=((), (3, 0))),
    _ordered(Ordered(descending=True, dim=0), (3, 2), 3, batched=False, bad_shapes=((), (0, 3))),
    _ordered(Ordered(min_gap=0.5), (4,), 4, bad_shapes=((), (3, 0))),
    _ordered(PositiveOrdered(), (4,), 4, bad_shapes=((), (3, 0))),
    _convex(Convex(), (5,)),
    _convex(Convex(dim=0), (4, 2), batched=False),
)
