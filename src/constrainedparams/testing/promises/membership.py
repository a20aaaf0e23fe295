"""What the set promises: who is a member, the nearest point, samples."""

from collections.abc import Callable

import torch
from torch import Tensor

from ... import errors
from ...sets.contract import Constraint
from ..case import Case
from .checking import (
    SCALES,
    PromiseBroken,
    close,
    eps,
    expect,
    points_of,
    raises,
    random_x,
    sample,
)

__all__ = ["PROMISES"]


def knows_its_members(case: Case) -> None:
    """Members are in, near misses are out, NaN and infinity are out; right_inverse refuses them."""
    constraint = case.constraint
    for dtype in case.all_dtypes:
        for name, y in points_of(case, dtype):
            expect(constraint.contains(y).all(), f"{name} ({dtype}) is not contained")
            expect((constraint.residual(y) >= 0).all(), f"{name}: negative residual")
            batch = constraint._matrix_shape(case.shape)
            batch = batch[: len(batch) - constraint.event_dim]
            for found in (constraint.residual(y), constraint.contains(y)):
                expect(tuple(found.shape) == batch, f"{name}: shape {tuple(found.shape)}")
        wrong: dict[str, Callable[[Tensor], Tensor]] = dict(case.near_misses)
        wrong["NaN"] = lambda y: torch.full_like(y, torch.nan)
        wrong["infinity"] = lambda y: torch.full_like(y, torch.inf)
        for name, damage in wrong.items():
            y = damage(sample(case, dtype))
            if eps(dtype) > 1e-4 and name in case.near_misses:
                continue  # what is a near miss in float32 is rounding in half precision
            expect(not constraint.contains(y).all(), f"near miss {name!r} ({dtype}) is contained")
            expect((constraint.residual(y) > 0).any(), f"near miss {name!r} has residual 0")
            _refuses_with_a_remedy(constraint, y, name)


def _refuses_with_a_remedy(constraint: Constraint, y: Tensor, name: str) -> None:
    try:
        constraint.right_inverse(y)
    except errors.ConstraintViolation as complaint:
        text = str(complaint)
        expect("project" in text and repr(constraint) in text, f"{name}: no remedy in {text!r}")
        return
    raise PromiseBroken(f"right_inverse accepted the near miss {name!r}")


def project_lands_and_stays(case: Case) -> None:
    """project lands in the set from anywhere, is idempotent, keeps members and refuses NaN."""
    constraint = case.constraint
    for dtype in case.all_dtypes:
        for scale in SCALES:
            noise = random_x(torch.empty(case.shape, dtype=dtype), scale)
            y = constraint.project(noise)
            expect(constraint.contains(y).all(), f"project({scale:g} noise) is off the set")
            close(constraint.project(y), y, 16, f"project twice, scale {scale:g}")
        for name, damage in case.near_misses.items():
            y = constraint.project(damage(sample(case, dtype)))
            expect(constraint.contains(y).all(), f"project(near miss {name!r}) is off the set")
        for name, y in points_of(case, dtype):
            close(constraint.project(y), y, 16, f"project of a member, {name}")
        with raises(errors.ConstraintViolation, "project(NaN)"):
            constraint.project(torch.full(case.shape, torch.nan, dtype=dtype))


def samples_are_reproducible(case: Case) -> None:
    """sample gives members of the asked shape and dtype, equal for equal generators."""
    for dtype in case.all_dtypes:
        y, again, other = sample(case, dtype), sample(case, dtype), sample(case, dtype, seed=1)
        expect(y.dtype == dtype and tuple(y.shape) == case.shape, f"sample is {y.dtype}, {y.shape}")
        expect(torch.equal(y, again), "the same generator gave another sample")
        expect(not torch.equal(y, other), "another generator gave the same sample")
        expect(case.constraint.contains(y).all(), f"a sample in {dtype} is off the set")


PROMISES = (
    knows_its_members,
    project_lands_and_stays,
    samples_are_reproducible,
)
