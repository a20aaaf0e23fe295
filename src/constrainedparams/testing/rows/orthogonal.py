"""Rows of the sets of matrices with orthonormal columns or rows."""

import torch

from ...sets.orthogonal import Orthogonal
from ..case import Case
from .points import bump, half_turn, identity, reflection

__all__ = ["ROWS"]


def _orthogonal(constraint: Orthogonal, shape: tuple[int, ...], **more: object) -> Case:
    square = len(shape) == 2 and shape[0] == shape[1]
    points = {} if constraint.view else {"identity": identity, "half turn": half_turn}
    return Case(
        constraint,
        shape,
        decay_target=lambda base: base,
        near_misses={
            "one entry off": bump,
            "scaled by 1.001": lambda y: 1.001 * y,
            "zero": torch.zeros_like,
        },
        awkward={**points, **({"determinant -1": reflection} if square else {})},
        **{"bad_shapes": ((4,), ()), **more},  # type: ignore[arg-type]
    )


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
)
