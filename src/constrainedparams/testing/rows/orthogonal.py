"""Rows of the sets of matrices with orthonormal columns or rows."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...sets.grassmann import Grassmann
from ...sets.orthogonal import Orthogonal
from ...sets.orthonormal import Orthonormal
from ...sets.special_orthogonal import SpecialOrthogonal
from ...sets.stiefel import Stiefel
from ..case import Case
from .points import bump, half_turn, identity, reflection

__all__ = ["ROWS"]


Points = dict[str, Callable[[Tensor], Tensor]]


def _case(
    constraint: Orthonormal,
    shape: tuple[int, ...],
    near_misses: Points | None = None,
    awkward: Points | None = None,
    bad_shapes: tuple[tuple[int, ...], ...] = ((4,), ()),
) -> Case:
    points = {} if constraint.view else {"identity": identity, "half turn": half_turn}
    off: Points = {
        "one entry off": bump,
        "scaled by 1.001": lambda y: 1.001 * y,
        "zero": torch.zeros_like,
    }
    return Case(
        constraint,
        shape,
        decay_target=identity if constraint.map == "polar" else lambda base: base,
        near_misses={**off, **(near_misses or {})},
        awkward={**points, **(awkward or {})},
        bad_shapes=bad_shapes,
        batched=not constraint.view,
    )


def _flipped(y: Tensor) -> Tensor:
    """The last columns of the identity: right angles with the first, as many as there is room."""
    return identity(y).flip(-2)


_REFLECTION: Points = {"determinant -1": reflection}
_WIDE = ((2, 3), (4,), ())

ROWS: tuple[Case, ...] = (
    _case(Orthogonal(), (3, 3), awkward=_REFLECTION),
    _case(Orthogonal("cayley"), (3, 3), awkward=_REFLECTION),
    _case(Orthogonal(), (5, 2)),
    _case(Orthogonal("cayley"), (5, 2)),
    _case(Orthogonal(), (2, 4)),
    _case(Orthogonal("cayley"), (2, 4)),
    _case(Orthogonal("polar"), (3, 3), awkward=_REFLECTION),
    _case(Orthogonal("polar"), (2, 4)),
    _case(Orthogonal(view="o i h w -> o (i h w)"), (2, 2, 1, 2), bad_shapes=((2, 2),)),
    _case(
        Orthogonal("cayley", view="(heads d) e -> heads d e", sizes={"heads": 2}),
        (4, 3),
        bad_shapes=((5, 3), (4,)),
    ),
    _case(SpecialOrthogonal(), (4, 4), near_misses=_REFLECTION, bad_shapes=((3, 2), (2, 3))),
    _case(SpecialOrthogonal("cayley"), (2, 2), near_misses=_REFLECTION, bad_shapes=((3, 2),)),
    _case(Stiefel(), (4, 2), bad_shapes=_WIDE),
    _case(Stiefel(), (3, 3), awkward=_REFLECTION, bad_shapes=_WIDE),
    _case(Stiefel("polar"), (5, 2), bad_shapes=_WIDE),
    _case(Stiefel("cayley", view="k n -> n k"), (1, 3), bad_shapes=((3, 1), (4,))),
    _case(Grassmann(), (5, 2), awkward={"orthogonal to the start": _flipped}, bad_shapes=_WIDE),
    _case(
        Grassmann("cayley"), (4, 3), awkward={"orthogonal to the start": _flipped}, bad_shapes=_WIDE
    ),
    _case(Grassmann(view="k n -> n k"), (1, 3), bad_shapes=((3, 1), (4,))),
)
