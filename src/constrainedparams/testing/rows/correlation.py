"""Rows of correlation matrices and their factors."""

import torch
from torch import Tensor

from ...sets.correlation import Correlation
from ...sets.correlation_cholesky import CorrelationCholesky
from ..case import Case
from .points import bump, identity

__all__ = ["ROWS"]

_MASK = torch.tensor([[True, False, False], [True, True, False], [False, True, True]])
_SHAPES = ((3,), (3, 2), (0, 0))


def _below(y: Tensor) -> Tensor:
    """The entries below the diagonal, as real numbers."""
    rows, columns = torch.tril_indices(y.shape[-2], y.shape[-1], -1)
    entries = y[rows, columns]
    return torch.view_as_real(entries.resolve_conj()).flatten() if y.is_complex() else entries


def _equal(y: Tensor, r: float) -> Tensor:
    """Off the diagonal all correlations are r."""
    one = identity(y)
    return torch.full_like(y, r) * (1 - one) + one


def _factor(y: Tensor, r: float) -> Tensor:
    wide = _equal(y.to(torch.complex128 if y.is_complex() else torch.float64), r)
    return torch.linalg.cholesky(wide).to(y.dtype)


def _last(y: Tensor, value: float) -> Tensor:
    y = y.clone()
    y[..., -1, -1] = value
    return y


_FACTOR = {
    "an entry above": lambda y: bump(y.flip(-1)).flip(-1),
    "rows of length 1.001": lambda y: 1.001 * y,
    "below zero on the diagonal": lambda y: _last(y, -float(y[..., -1, -1].real)),
    "zero": torch.zeros_like,
}
_MATRIX = {
    "asymmetric": lambda y: bump(y.flip(-1)).flip(-1),
    "2 on the diagonal": lambda y: y + identity(y),
    "indefinite": lambda y: _equal(y, -0.51),
    "zero": torch.zeros_like,
}

ROWS: tuple[Case, ...] = (
    Case(
        CorrelationCholesky(),
        (3, 3),
        decay_target=identity,
        near_misses=_FACTOR,
        awkward={
            "identity": identity,
            "nearly singular": lambda y: _factor(y, 1 - 1e-4),
            "nearly singular below 0": lambda y: _factor(y, -0.4999),
        },
        bad_shapes=_SHAPES,
        coordinates=_below,
    ),
    Case(
        CorrelationCholesky(mask=_MASK),
        (3, 3),
        decay_target=identity,
        near_misses={**_FACTOR, "an entry that the mask forbids": lambda y: _factor(y, 0.5)},
        awkward={"identity": identity},
        bad_shapes=(*_SHAPES, (4, 4)),
        coordinates=lambda y: torch.cat([_below(y[:2, :2]), _below(y[1:, 1:])]),
    ),
    Case(
        Correlation(),
        (3, 3),
        decay_target=identity,
        near_misses={**_MATRIX, "singular": lambda y: _equal(y, 1.0)},
        awkward={
            "identity": identity,
            "nearly singular": lambda y: _equal(y, 1 - 1e-4),
            "nearly singular below 0": lambda y: _equal(y, -0.4999),
        },
        bad_shapes=_SHAPES,
        coordinates=_below,
    ),
    Case(
        Correlation(rank=2),
        (3, 3),
        decay_target=torch.ones_like,
        near_misses={**_MATRIX, "of rank three": identity},
        awkward={"cut from a plane": lambda y: _equal(y, -0.5)},
        bad_shapes=(*_SHAPES, (1, 1)),
    ),
)
