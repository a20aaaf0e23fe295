"""Rows of the sets of vectors."""

import torch
from torch import Tensor

from ...sets.simplex import Simplex
from ...sets.sphere import Sphere
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


ROWS: tuple[Case, ...] = (
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
