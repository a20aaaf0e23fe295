"""Rows of the models of hyperbolic space."""

import torch
from torch import Tensor

from ...sets.lorentz import Lorentz
from ...sets.poincare_ball import PoincareBall
from ..case import Case

__all__ = ["ROWS"]


def _first(y: Tensor, constraint: Lorentz | PoincareBall, size: float) -> Tensor:
    """Vectors of that size along the last axis of each."""
    rows = constraint._read(torch.zeros_like(y)).clone()
    rows[..., -1] = size
    return constraint._write(rows, tuple(y.shape)).contiguous()


def _lorentz(constraint: Lorentz, shape: tuple[int, ...], **more: object) -> Case:
    r = constraint.radius

    def origin(y: Tensor) -> Tensor:
        return constraint(torch.zeros_like(y))

    def low_origin(y: Tensor) -> Tensor:
        rows = constraint._read(torch.zeros_like(y)).clone()
        rows[..., 0] = r
        return constraint._write(rows, tuple(y.shape)).contiguous()

    return Case(
        constraint,
        shape,
        decay_target=low_origin,
        near_misses={
            "on the lower sheet": torch.neg,
            "zero": torch.zeros_like,
            "inside the cone": lambda y: low_origin(y) * 1.001,
            "another curvature": lambda y: 1.001 * constraint.project(_first(y, constraint, r)),
        },
        awkward={
            "origin": origin,
            "far out": lambda y: constraint.project(_first(y, constraint, 1e4 * r)),
        },
        **more,  # type: ignore[arg-type]
    )


def _ball(constraint: PoincareBall, shape: tuple[int, ...], **more: object) -> Case:
    r = constraint.radius
    return Case(
        constraint,
        shape,
        decay_target=torch.zeros_like,
        near_misses={
            "at the bound": lambda y: _first(y, constraint, r),
            "beyond": lambda y: _first(y, constraint, 1.001 * r),
        },
        awkward={
            "origin": torch.zeros_like,
            "near the bound": lambda y: _first(y, constraint, 0.999 * r),
        },
        coordinates=lambda y: y.flatten(),
        **more,  # type: ignore[arg-type]
    )


ROWS: tuple[Case, ...] = (
    _lorentz(Lorentz(), (4,), bad_shapes=((), (1,))),
    _lorentz(Lorentz(2.0, dim=0), (3, 2), batched=False, bad_shapes=((), (1, 3))),
    _ball(PoincareBall(), (3,), bad_shapes=((), (3, 0))),
    _ball(PoincareBall(0.5, dim=0), (2, 2), batched=False, bad_shapes=((), (0, 3))),
)
