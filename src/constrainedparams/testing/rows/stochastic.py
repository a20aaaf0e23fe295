"""Rows of the matrices of Markov chains and transport."""

import math

import torch
from torch import Tensor

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


ROWS: tuple[Case, ...] = (
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
