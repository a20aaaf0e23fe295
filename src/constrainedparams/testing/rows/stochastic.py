"""Rows of the matrices of Markov chains and transport."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from ...sets.doubly_stochastic import DoublyStochastic
from ...sets.rate_matrix import RateMatrix
from ..case import Case
from .points import bump, identity

__all__ = ["ROWS"]


def _others(y: Tensor) -> Tensor:
    """The entries off the diagonal."""
    return y[~torch.eye(y.shape[-1], dtype=torch.bool)]


def _rates(y: Tensor, first: float) -> Tensor:
    """Rates of 1, but for the last one of the first row."""
    y = torch.ones_like(y)
    y[..., 0, -1] = first
    return y - torch.diag_embed(y.sum(-1))


def _between(y: Tensor, share: float) -> Tensor:
    """A share of a permutation, the rest of 1/n everywhere."""
    return share * identity(y).flip(-1) + (1 - share) / y.shape[-1]


def _plan(constraint: DoublyStochastic, shape: tuple[int, int], independent: Tensor) -> Case:
    return Case(
        constraint,
        shape,
        decay_target=lambda like: independent.to(like.dtype).expand(like.shape),
        near_misses={
            "scaled by 1.001": lambda y: 1.001 * y,
            "one entry off": bump,
            "a negative entry": lambda y: _with_a_square(y, -1e-4),
            "an entry that is 0": lambda y: _with_a_square(y, 0.0),
            "zero": torch.zeros_like,
        },
        awkward={"independent": lambda y: independent.to(y.dtype).expand(y.shape).clone()},
        bad_shapes=((3,), (3, 2), (0, 0)),
    )


def _with_a_square(y: Tensor, first: float) -> Tensor:
    """``y`` with another first entry, and the same sums by way of the square of four."""
    y = y.clone()
    change = y[..., 0, 0] - first
    y[..., 0, 0], y[..., 1, 1] = first, y[..., 1, 1] - change
    y[..., 0, 1], y[..., 1, 0] = y[..., 0, 1] + change, y[..., 1, 0] + change
    return y


_THIRDS = torch.full((3, 3), 1 / 3, dtype=torch.float64)
_SUMS = torch.tensor([[0.5], [0.25]], dtype=torch.float64), [0.125, 0.25, 0.375]
_SQUARE = _plan(DoublyStochastic(), (3, 3), _THIRDS)
_NEAR = {
    "near a permutation": lambda y: _between(y, 0.999),
    "half a permutation": lambda y: _between(y, 0.5),
}

ROWS: tuple[Case, ...] = (
    replace(_SQUARE, awkward={**_SQUARE.awkward, **_NEAR}),
    _plan(
        DoublyStochastic(rows=[0.5, 0.25], columns=_SUMS[1]),
        (2, 3),
        _SUMS[0] * torch.tensor(_SUMS[1], dtype=torch.float64) / 0.75,
    ),
    Case(
        RateMatrix(),
        (3, 3),
        decay_target=lambda like: math.log(2.0) * (1 - 3 * identity(like)),
        near_misses={
            "a row off": bump,
            "a rate of 0": lambda y: _rates(y, 0.0),
            "a rate below 0": lambda y: _rates(y, -1e-5),
            "zero": torch.zeros_like,
            "columns that sum to 0": lambda y: _rates(y, 0.5).mT.contiguous(),
            "negated": torch.neg,
        },
        awkward={
            "all rates equal": lambda y: _rates(y, 1.0),
            "rates of many sizes": lambda y: _rates(y, 1e-6),
            "fast": lambda y: 256 * _rates(y, 1.0),
        },
        bad_shapes=((3,), (3, 2), (2, 3)),
        coordinates=_others,
    ),
)
