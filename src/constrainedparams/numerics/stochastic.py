"""Generators of Markov chains: rows that sum to 0."""

import torch
from torch import Tensor

from .elementary import precise

__all__ = ["nearest_rates", "off_diagonal", "with_zero_rows"]


def off_diagonal(y: Tensor) -> Tensor:
    """Where a matrix (..., n, n) is off the diagonal."""
    return ~torch.eye(y.shape[-1], dtype=torch.bool, device=y.device)


def with_zero_rows(rates: Tensor) -> Tensor:
    """``rates`` (zero on the diagonal) with a diagonal that makes every row sum to 0.

    Added up in double precision: the error of a row sum is the rounding of the diagonal.
    """
    return rates - torch.diag_embed(precise(rates).sum(-1).to(rates.dtype))


def nearest_rates(y: Tensor, low: Tensor) -> Tensor:
    """The nearest matrix with row sums 0 and off-diagonal entries of at least ``low`` (..., 1, 1).

    In a row with diagonal d the entries are max(y_j - t, low), and t = d + their sum, the
    multiplier of the row sum: if k of them are above low, t (1 + k) = d + sum of these k y_j +
    (n - 1 - k) low. They are the k largest.
    """
    wide, low = precise(y), precise(low)
    n = y.shape[-1]
    others = off_diagonal(y)
    above = torch.where(others, wide - low, -torch.inf).sort(-1, descending=True).values[..., :-1]
    start = torch.diagonal(wide, dim1=-2, dim2=-1).unsqueeze(-1) + (n - 1) * low
    count = torch.arange(1, n + 1, dtype=wide.dtype, device=y.device)
    thresholds = torch.cat((start, start + above.cumsum(-1)), dim=-1) / count
    last = (above > thresholds[..., 1:]).sum(-1, keepdim=True)
    t = thresholds.gather(-1, last)
    rates = torch.where(others, low + (wide - low - t).clamp_min(0), 0)
    return with_zero_rows(rates.to(y.dtype))
