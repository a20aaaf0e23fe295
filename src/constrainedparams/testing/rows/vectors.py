"""Rows of the sets of vectors."""

import torch
from torch import Tensor

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


ROWS: tuple[Case, ...] = (
    _sphere(Sphere(), (4,), 4, bad_shapes=((), (3, 0))),
    _sphere(Sphere(3.0, dim=0), (4, 2), 4, batched=False, bad_shapes=((), (0, 3))),
    _sphere(Sphere(dim=(0, -1)), (2, 3, 2), 4, batched=False, bad_shapes=((3,),)),
    _sphere(Sphere(0.5, dim=None), (2, 3), 6, batched=False, bad_shapes=((0,),)),
)
