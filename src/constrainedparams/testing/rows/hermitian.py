"""Rows of Hermitian and skew-Hermitian matrices."""

import torch

from ...sets.hermitian import Hermitian
from ...sets.skew_hermitian import SkewHermitian
from ..case import Case
from .points import bump, identity

__all__ = ["ROWS"]

_SHAPES = ((3,), (3, 2), (2, 3))

ROWS: tuple[Case, ...] = (
    Case(
        Hermitian(),
        (3, 3),
        decay_target=torch.zeros_like,
        near_misses={
            "one entry off": lambda y: bump(y.flip(-1)).flip(-1),
            "of skew-Hermitian matrices": lambda y: SkewHermitian()(torch.ones_like(y).tril(-1)),
        },
        awkward={"zero": torch.zeros_like, "identity": identity},
        bad_shapes=_SHAPES,
    ),
    Case(
        SkewHermitian(),
        (3, 3),
        decay_target=torch.zeros_like,
        near_misses={"a real entry on the diagonal": bump, "the identity": identity},
        awkward={"zero": torch.zeros_like},
        bad_shapes=_SHAPES,
    ),
)
