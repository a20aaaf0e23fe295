"""Rows of the linear spaces of matrices."""

import torch
from torch import Tensor

from ...sets.skew import Skew
from ...sets.symmetric import Symmetric
from ..case import Case
from .points import bump, identity

__all__ = ["ROWS"]


def _corner(y: Tensor) -> Tensor:
    """``y`` with one entry off the diagonal enlarged, and not its mirror image."""
    return bump(y.flip(-1)).flip(-1)


def _linear(constraint: Symmetric | Skew, shape: tuple[int, ...], **more: object) -> Case:
    skew = isinstance(constraint, Skew)
    return Case(
        constraint,
        shape,
        decay_target=torch.zeros_like,
        near_misses={
            "one entry off": _corner,
            **({"an entry on the diagonal": bump, "the identity": identity} if skew else {}),
        },
        awkward={
            "zero": torch.zeros_like,
            "large": lambda y: constraint.project(1e30 * _corner(torch.zeros_like(y))),
            **({} if skew or constraint.view else {"identity": identity}),
        },
        **{"bad_shapes": ((3,), (3, 2), (2, 3)), **more},  # type: ignore[arg-type]
    )


ROWS: tuple[Case, ...] = (
    _linear(Symmetric(), (3, 3)),
    _linear(Symmetric(view="o i h w -> o i h w"), (2, 1, 2, 2), batched=False),
    _linear(Skew(), (3, 3)),
    _linear(
        Skew(view="(blocks n) m -> blocks n m", sizes={"blocks": 2}),
        (4, 2),
        batched=False,
        bad_shapes=((4,), (4, 4), (3, 2)),
    ),
)
