"""The table: one row or more for every set of the library."""

import math

import torch
from torch import Tensor

from ..sets.constants import as_tensor
from ..sets.interval import Interval
from ..sets.non_negative import NonNegative
from ..sets.orthogonal import Orthogonal
from ..sets.positive_definite import PositiveDefinite
from .case import Case

__all__ = ["ROWS"]

_LOG2 = math.log(2.0)


def _identity(y: Tensor) -> Tensor:
    """The identity, or its first columns or rows, in the shape of ``y``."""
    return torch.eye(*y.shape[-2:], dtype=y.dtype).expand(y.shape).clone()


def _bump(y: Tensor, size: float = 1e-3) -> Tensor:
    """``y`` with its first entry enlarged."""
    y = y.clone()
    y.view(-1)[0] += size
    return y


def _triangle(y: Tensor) -> Tensor:
    """The free entries of one Hermitian matrix."""
    rows, columns = torch.tril_indices(*y.shape[-2:])
    entries = y[rows, columns]
    return torch.cat((entries.real, entries[rows != columns].imag)) if y.is_complex() else entries


def _half_turn(y: Tensor) -> Tensor:
    """-I: an angle of pi, which Cayley reaches from no other base, exp not smoothly."""
    return -_identity(y)


def _reflection(y: Tensor) -> Tensor:
    """Determinant -1 (square), the other component of the orthogonal group."""
    return _bump(_identity(y), -2.0)


def _spectrum(y: Tensor, first: float, second: float) -> Tensor:
    """diag(first, ..., first, second), turned a little."""
    n = y.shape[-1]
    values = torch.full((n,), first, dtype=torch.float64)
    values[-1] = second
    turn = torch.linalg.qr(torch.arange(1.0, n * n + 1, dtype=torch.float64).reshape(n, n).sin())[0]
    full = (turn * values) @ turn.T
    return (0.5 * (full + full.T)).to(y.dtype)


def _orthogonal(constraint: Orthogonal, shape: tuple[int, ...], **more: object) -> Case:
    square = len(shape) == 2 and shape[0] == shape[1]
    points = {} if constraint.view else {"identity": _identity, "half turn": _half_turn}
    return Case(
        constraint,
        shape,
        decay_target=lambda base: base,
        near_misses={
            "one entry off": _bump,
            "scaled by 1.001": lambda y: 1.001 * y,
            "zero": torch.zeros_like,
        },
        awkward={**points, **({"determinant -1": _reflection} if square else {})},
        **{"bad_shapes": ((4,), ()), **more},  # type: ignore[arg-type]
    )


def _definite(constraint: PositiveDefinite, target: float, **more: object) -> Case:
    low = constraint.lower
    high = low + 1 if constraint.upper is None else constraint.upper
    middle = 0.5 * (low + high)
    near_misses = {
        "asymmetric": lambda y: _bump(y.flip(-1), 1e-3).flip(-1),
        "eigenvalue at the bound": lambda y: _spectrum(y, middle, low) - 1e-5 * _identity(y),
        "at the lower bound": lambda y: low * _identity(y),
        "indefinite": lambda y: _spectrum(y, middle, low - 0.01),
    }
    if constraint.upper is not None:
        near_misses["above"] = lambda y: _spectrum(y, middle, high + 0.01)
        near_misses["at the upper bound"] = lambda y: high * _identity(y)
    return Case(
        constraint,
        (3, 3),
        decay_target=lambda like: target * _identity(like),
        near_misses=near_misses,
        awkward={
            "multiple of the identity": lambda y: middle * _identity(y),
            "repeated eigenvalues": lambda y: _spectrum(y, middle, 0.5 * (middle + high)),
            "ill-conditioned": lambda y: _spectrum(y, middle, low + 1e-4 * (middle - low)),
        },
        bad_shapes=((3,), (3, 2)),
        coordinates=_triangle,
        **more,  # type: ignore[arg-type]
    )


def _interval(constraint: Interval, shape: tuple[int, ...], middle: object, **more: object) -> Case:
    a, b = as_tensor(constraint.lower), as_tensor(constraint.upper)
    bounds = {
        "lower bound": lambda y: a.to(y.dtype).expand(y.shape).clone(),
        "upper bound": lambda y: b.to(y.dtype).expand(y.shape).clone(),
    }
    beyond = {
        "below": lambda y: (a - 1e-4).to(y.dtype).expand(y.shape).clone(),
        "above": lambda y: (b + 1e-4).to(y.dtype).expand(y.shape).clone(),
    }
    near = {"near a bound": lambda y: (a + 1e-3 * (b - a)).to(y.dtype).expand(y.shape).clone()}
    return Case(
        constraint,
        shape,
        decay_target=lambda like: torch.as_tensor(middle).to(like.dtype).expand(like.shape),
        near_misses=beyond if constraint.closed else {**beyond, **bounds},
        awkward={**near, **bounds} if constraint.closed else near,
        coordinates=None if constraint.closed else lambda y: y.flatten(),
        **more,  # type: ignore[arg-type]
    )


_SQUARED = _LOG2**2

ROWS: tuple[Case, ...] = (
    _orthogonal(Orthogonal(), (3, 3)),
    _orthogonal(Orthogonal("cayley"), (3, 3)),
    _orthogonal(Orthogonal(), (5, 2)),
    _orthogonal(Orthogonal("cayley"), (5, 2)),
    _orthogonal(Orthogonal(), (2, 4)),
    _orthogonal(Orthogonal("cayley"), (2, 4)),
    _orthogonal(
        Orthogonal(view="o i h w -> o (i h w)"), (2, 2, 1, 2), batched=False, bad_shapes=((2, 2),)
    ),
    _orthogonal(
        Orthogonal("cayley", view="(heads d) e -> heads d e", sizes={"heads": 2}),
        (4, 3),
        batched=False,
        bad_shapes=((5, 3), (4,)),
    ),
    _definite(PositiveDefinite(), _SQUARED),
    _definite(PositiveDefinite(lower=0.5), 0.5 + _SQUARED),
    _definite(PositiveDefinite(-1.0, 3.0), -1.0 + 4.0 * _SQUARED / (1.0 + _SQUARED)),
    _interval(Interval(0.0, 1.0), (3,), 0.5),
    _interval(Interval(-2.0, 2.0), (2, 2), 0.0),
    _interval(Interval(torch.tensor([0.0, -1.0]), 3.0), (2, 2), [1.5, 1.0], bad_shapes=((3,), ())),
    _interval(Interval(-1.0, 2.0, closed=True), (3,), 0.5),
    Case(
        NonNegative(),
        (3,),
        decay_target=torch.zeros_like,
        near_misses={"just below": lambda y: _bump(torch.zeros_like(y), -1e-6)},
        awkward={
            "zero": torch.zeros_like,
            "one entry zero": lambda y: _bump(torch.zeros_like(y), 1.0),
        },
    ),
)
