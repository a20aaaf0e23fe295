"""Rows of the open sets of square matrices: triangular factors, invertible matrices."""

import math

import torch
from torch import Tensor

from ...sets.cholesky_factor import CholeskyFactor
from ...sets.invertible import Invertible
from ..case import Case
from .points import bump, identity, reflection, spectrum, triangle

__all__ = ["ROWS"]


def _last_on_diagonal(y: Tensor, value: float) -> Tensor:
    y = y.clone()
    y[..., -1, -1] = value
    return y


def _twice_the_first(y: Tensor) -> Tensor:
    """Two equal columns."""
    return torch.cat((y[..., :-1], y[..., :1]), dim=-1)


def _mirrored(y: Tensor) -> Tensor:
    """A determinant of the other sign."""
    return torch.cat((-y[..., :1], y[..., 1:]), dim=-1)


def _without_logarithm(y: Tensor) -> Tensor:
    """diag(-1, -2, 1, ...): the exponential of no real matrix."""
    y = identity(y)
    y[..., 0, 0], y[..., 1, 1] = -1.0, -2.0
    return y


def _invertible(constraint: Invertible, shape: tuple[int, ...], **more: object) -> Case:
    signed = constraint.sign is not None
    points = {
        "identity": identity,
        "no real logarithm": _without_logarithm,
        "ill-conditioned": lambda y: spectrum(y, 1.0, 1e-4),
        "columns of many sizes": lambda y: spectrum(y, 1.0, 0.5) * (10.0 ** -identity(y)[0]),
    }
    return Case(
        constraint,
        shape,
        decay_target=lambda base: math.log(2.0) * base,
        near_misses={
            "two equal columns": _twice_the_first,
            "zero": torch.zeros_like,
            **({"determinant below zero": _mirrored} if signed else {}),
        },
        awkward={}
        if constraint.view
        else {**points, **({} if signed else {"determinant -1": reflection})},
        batched=not constraint.view,
        **{"bad_shapes": ((3,), (3, 2), (2, 3)), **more},  # type: ignore[arg-type]
    )


ROWS: tuple[Case, ...] = (
    Case(
        CholeskyFactor(),
        (3, 3),
        decay_target=lambda like: math.log(2.0) * identity(like),
        near_misses={
            "an entry above": lambda y: bump(y.flip(-1)).flip(-1),
            "zero on the diagonal": lambda y: _last_on_diagonal(y, 0.0),
            "below zero on the diagonal": lambda y: _last_on_diagonal(y, -1e-6),
            "zero": torch.zeros_like,
            "negated": torch.neg,
        },
        awkward={
            "identity": identity,
            "near the boundary": lambda y: 1e-6 * identity(y),
            "diagonal of many sizes": lambda y: _last_on_diagonal(30 * identity(y), 1e-7),
        },
        bad_shapes=((3,), (3, 2), (2, 3)),
        coordinates=triangle,
    ),
    _invertible(Invertible(), (3, 3)),
    _invertible(Invertible(sign=1), (3, 3)),
    _invertible(
        Invertible(sign=1, view="(blocks i) j -> blocks i j", sizes={"blocks": 2}),
        (4, 2),
        bad_shapes=((4, 4), (4,)),
    ),
)
