"""Rows of the sets of matrices that are not orthogonal."""

import math

import torch

from ...sets.positive_definite import PositiveDefinite
from ...sets.unit_determinant_positive_definite import UnitDeterminantPositiveDefinite
from ..case import Case
from .points import bump, identity, spectrum, triangle

__all__ = ["ROWS"]

_SQUARED = math.log(2.0) ** 2


def _definite(constraint: PositiveDefinite, target: float, **more: object) -> Case:
    low = constraint.lower
    high = low + 1 if constraint.upper is None else constraint.upper
    middle = 0.5 * (low + high)
    near_misses = {
        "asymmetric": lambda y: bump(y.flip(-1), 1e-3).flip(-1),
        "eigenvalue at the bound": lambda y: spectrum(y, middle, low) - 1e-5 * identity(y),
        "at the lower bound": lambda y: low * identity(y),
        "indefinite": lambda y: spectrum(y, middle, low - 0.01),
    }
    if constraint.upper is not None:
        near_misses["above"] = lambda y: spectrum(y, middle, high + 0.01)
        near_misses["at the upper bound"] = lambda y: high * identity(y)
    return Case(
        constraint,
        (3, 3),
        decay_target=lambda like: target * identity(like),
        near_misses=near_misses,
        awkward={
            "multiple of the identity": lambda y: middle * identity(y),
            "repeated eigenvalues": lambda y: spectrum(y, middle, 0.5 * (middle + high)),
            "ill-conditioned": lambda y: spectrum(y, middle, low + 1e-4 * (middle - low)),
        },
        bad_shapes=((3,), (3, 2)),
        coordinates=triangle if constraint.map == "cholesky" else None,
        **more,  # type: ignore[arg-type]
    )


ROWS: tuple[Case, ...] = (
    _definite(PositiveDefinite(), _SQUARED),
    _definite(PositiveDefinite(lower=0.5), 0.5 + _SQUARED),
    _definite(PositiveDefinite(map="exp"), 1.0),
    _definite(PositiveDefinite(-1.0, 3.0), -1.0 + 4.0 * _SQUARED / (1.0 + _SQUARED)),
    Case(
        UnitDeterminantPositiveDefinite(),
        (3, 3),
        decay_target=identity,
        near_misses={
            "asymmetric": lambda y: bump(y.flip(-1), 1e-3).flip(-1),
            "determinant 1.01": lambda y: 1.01 ** (1 / 3) * y,
            "negated": torch.neg,
            "two eigenvalues -1": lambda y: identity(y) * torch.tensor([-1.0, -1.0, 1.0]),
            "zero": torch.zeros_like,
        },
        awkward={
            "identity": identity,
            "repeated eigenvalues": lambda y: spectrum(y, 2.0, 0.25),
            "ill-conditioned": lambda y: spectrum(y, 4.0, 0.0625),
        },
        bad_shapes=((3,), (3, 2)),
    ),
)
