"""Rows of the sets of matrices of linear systems."""

import math

import torch
from torch import Tensor

from ...sets.hurwitz import Hurwitz
from ...sets.schur import Schur
from ...sets.special_linear import SpecialLinear
from ...sets.symplectic import Symplectic
from ..case import Case
from .points import bump, half_turn, identity, reflection, spectrum

__all__ = ["ROWS"]


def _numbers(y: Tensor) -> Tensor:
    return (torch.view_as_real(y) if y.is_complex() else y).flatten()


def _jordan(y: Tensor, value: float) -> Tensor:
    """One eigenvalue, defective."""
    return value * identity(y) + torch.diag_embed(torch.ones_like(y[..., 0, 1:]), 1)


def _turn(y: Tensor, real: float, imaginary: float) -> Tensor:
    """A pair of complex eigenvalues in the first two places, ``real`` in the others."""
    y = real * identity(y)
    y[..., 0, 1], y[..., 1, 0] = imaginary, -imaginary
    return y


def _schur(constraint: Schur, shape: tuple[int, ...], **more: object) -> Case:
    r = constraint.radius
    return Case(
        constraint,
        shape,
        decay_target=torch.zeros_like,
        near_misses={
            "an eigenvalue at the bound": lambda y: spectrum(y, 0.5 * r, 1.00001 * r),
            "at the bound": lambda y: r * identity(y),
            "a rotation": lambda y: _turn(y, 0.0, 1.0001 * r),
            "far beyond": lambda y: 100 * r * identity(y),
        },
        awkward={
            "zero": torch.zeros_like,
            "defective": lambda y: _jordan(y, 0.5 * r),
            "nilpotent": lambda y: _jordan(y, 0.0),
            "near the bound": lambda y: spectrum(y, 0.5 * r, 0.99 * r),
            "repeated": lambda y: 0.5 * r * identity(y),
            "a slow rotation": lambda y: _turn(y, 0.1 * r, 0.9 * r),
        },
        coordinates=_numbers,
        **{"bad_shapes": ((3,), (3, 2), (2, 3)), **more},  # type: ignore[arg-type]
    )


def _hurwitz(constraint: Hurwitz, shape: tuple[int, ...], **more: object) -> Case:
    alpha = constraint.alpha

    def left(y: Tensor) -> Tensor:
        return y - alpha * identity(y)

    return Case(
        constraint,
        shape,
        decay_target=lambda like: -(math.log(2.0) ** 2 + alpha) * identity(like),
        near_misses={
            "an eigenvalue beyond": lambda y: left(spectrum(y, -1.0, 1e-4)),
            "at the bound": lambda y: left(torch.zeros_like(y)),
            "undamped": lambda y: left(_turn(y, 1e-5, 1.0)),
            "negated": lambda y: 100 * identity(y),
        },
        awkward={
            "defective": lambda y: left(_jordan(y, -1.0)),
            "repeated": lambda y: left(-identity(y)),
            "near the bound": lambda y: left(spectrum(y, -1.0, -1e-2)),
            "a fast rotation": lambda y: left(_turn(y, -1.0, 10.0)),
        },
        coordinates=_numbers,
        **{"bad_shapes": ((3,), (3, 2), (2, 3)), **more},  # type: ignore[arg-type]
    )


def _diagonal(y: Tensor, *values: float) -> Tensor:
    return (
        torch.diag_embed(torch.tensor(values, dtype=torch.float64).to(y.dtype))
        .expand(y.shape)
        .clone()
    )


def _quarter_turn(y: Tensor) -> Tensor:
    """J."""
    one = identity(y)
    n = y.shape[-1] // 2
    return torch.cat((-one[..., n:], one[..., :n]), dim=-1)


def _shear(y: Tensor, size: float) -> Tensor:
    """[[I, size I], [0, I]]."""
    y = identity(y)
    n = y.shape[-1] // 2
    y[..., :n, n:] = size * y[..., :n, :n]
    return y


ROWS: tuple[Case, ...] = (
    _schur(Schur(), (3, 3)),
    _schur(Schur(0.5), (2, 2)),
    _hurwitz(Hurwitz(), (3, 3)),
    _hurwitz(Hurwitz(0.25), (2, 2)),
    Case(
        SpecialLinear(),
        (3, 3),
        decay_target=lambda base: base,
        near_misses={
            "scaled by 1.001": lambda y: 1.001 * y,
            "determinant -1": reflection,
            "negated": torch.neg,
            "singular": lambda y: torch.cat((y[..., :-1], y[..., :1]), dim=-1),
            "zero": torch.zeros_like,
        },
        awkward={
            "identity": identity,
            "half turn": lambda y: _diagonal(y, -1.0, -1.0, 1.0),
            "no real logarithm": lambda y: _diagonal(y, -1.0, -4.0, 0.25),
            "ill-conditioned": lambda y: _diagonal(y, 1e3, 1.0, 1e-3),
            "defective": lambda y: _jordan(y, 1.0),
        },
        bad_shapes=((3,), (3, 2), (0, 0)),
    ),
    Case(
        Symplectic(),
        (4, 4),
        decay_target=lambda base: base,
        near_misses={
            "scaled by 1.001": lambda y: 1.001 * y,
            "one entry off": bump,
            "a reflection": reflection,
            "determinant 1": lambda y: _diagonal(y, 2.0, 0.5, 1.0, 1.0),
            "zero": torch.zeros_like,
        },
        awkward={
            "identity": identity,
            "half turn": half_turn,
            "J": _quarter_turn,
            "squeezed": lambda y: _diagonal(y, 30.0, 1.0, 1 / 30, 1.0),
            "a shear": lambda y: _shear(y, 10.0),
        },
        bad_shapes=((4,), (3, 3), (4, 2)),
    ),
)
