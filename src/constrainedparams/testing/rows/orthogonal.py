"""Rows of the sets of matrices with orthonormal columns or rows."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...sets.grassmann import Grassmann
from ...sets.orthogonal import Orthogonal
from ...sets.orthonormal import Orthonormal
from ...sets.rotation3d import Rotation3D
from ...sets.special_orthogonal import SpecialOrthogonal
from ...sets.special_unitary import SpecialUnitary
from ...sets.stiefel import Stiefel
from ...sets.unitary import Unitary
from ..case import Case
from .points import bump, half_turn, identity, reflection

__all__ = ["ROWS"]


Points = dict[str, Callable[[Tensor], Tensor]]


def _frame(y: Tensor) -> Tensor:
    """Q^H y, Q a constant that begins with y: the real numbers below the diagonal (and on it)."""
    y = y if y.shape[-2] >= y.shape[-1] else y.mH
    k, start = y.shape[-1], y.detach()
    rest = torch.linalg.qr(start, mode="complete")[0][..., k:]
    turned = torch.cat((start, rest), dim=-1).mH @ y
    rows, columns = torch.tril_indices(turned.shape[-2], k, offset=-1)
    free = turned[..., rows, columns].flatten()
    if not y.is_complex():
        return free
    diagonal = torch.diagonal(turned, dim1=-2, dim2=-1).imag.flatten()
    return torch.cat((torch.view_as_real(free).flatten(), diagonal))


def _case(
    constraint: Orthonormal,
    shape: tuple[int, ...],
    near_misses: Points | None = None,
    awkward: Points | None = None,
    bad_shapes: tuple[tuple[int, ...], ...] = ((4,), ()),
) -> Case:
    has_density = constraint.map in ("cayley", "householder") and not isinstance(
        constraint, Grassmann
    )
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
        coordinates=(lambda y: _frame(constraint._read(y))) if has_density else None,
    )


def _flipped(y: Tensor) -> Tensor:
    """The last columns of the identity: right angles with the first, as many as there is room."""
    return identity(y).flip(-2)


def _other_phase(y: Tensor) -> Tensor:
    """A first column that takes the determinant away from 1."""
    turn = torch.tensor(0.6 + 0.8j if y.is_complex() else -1.0).to(y.dtype)
    return torch.cat((turn * y[..., :1], y[..., 1:]), dim=-1)


def _third_of_a_turn(y: Tensor) -> Tensor:
    """Trace 0: a turn by 120 degrees, where the real part of the quaternion is not the largest."""
    return identity(y).roll(1, -2)


def _half_turn(y: Tensor) -> Tensor:
    """A half turn about the third axis: its quaternion has no real part."""
    return torch.diag_embed(torch.tensor([-1.0, -1.0, 1.0], dtype=y.dtype)).expand(y.shape).clone()


def _rotation(constraint: Rotation3D, at_zero: Callable[[Tensor], Tensor]) -> Case:
    return Case(
        constraint,
        (3, 3),
        decay_target=at_zero,
        near_misses={"one entry off": bump, "scaled by 1.001": lambda y: 1.001 * y, **_REFLECTION},
        awkward={
            "identity": identity,
            "a third of a turn": _third_of_a_turn,
            "half a turn": _half_turn,
        },
        bad_shapes=((2, 2), (3, 2), (4,), ()),
    )


def _columns_at_zero(y: Tensor) -> Tensor:
    """(1, 1, 1), then what is left of the first axis, normalised."""
    a, b, c = 3**-0.5, 6**-0.5, 2**-0.5
    return torch.tensor([[a, 2 * b, 0.0], [a, -b, c], [a, -b, -c]], dtype=y.dtype)


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
    _case(Orthogonal("householder"), (3, 3), awkward=_REFLECTION),
    _case(Orthogonal("householder"), (5, 2), awkward={"last columns": _flipped}),
    _case(Orthogonal("householder"), (2, 4)),
    _case(Orthogonal(view="o i h w -> o (i h w)"), (2, 2, 1, 2), bad_shapes=((2, 2),)),
    _case(
        Orthogonal("cayley", view="(heads d) e -> heads d e", sizes={"heads": 2}),
        (4, 3),
        bad_shapes=((5, 3), (4,)),
    ),
    _case(SpecialOrthogonal(), (4, 4), near_misses=_REFLECTION, bad_shapes=((3, 2), (2, 3))),
    _case(SpecialOrthogonal("cayley"), (2, 2), near_misses=_REFLECTION, bad_shapes=((3, 2),)),
    _case(SpecialOrthogonal("householder"), (4, 4), near_misses=_REFLECTION, bad_shapes=((3, 2),)),
    _case(Unitary(), (2, 2), bad_shapes=((3, 2), (2, 3), (4,))),
    _case(Unitary("cayley"), (3, 3), bad_shapes=((3, 2),)),
    _case(Unitary("polar"), (2, 2), bad_shapes=((3, 2),)),
    _case(Unitary("householder"), (3, 3), bad_shapes=((3, 2),)),
    _case(SpecialUnitary(), (2, 2), {"another phase": _other_phase}, bad_shapes=((3, 2), (4,))),
    _case(
        SpecialUnitary(view="(b i) j -> b i j", sizes={"b": 1}),
        (3, 3),
        {"another phase": _other_phase},
        bad_shapes=((4,),),
    ),
    _rotation(Rotation3D(), _columns_at_zero),
    _rotation(Rotation3D("quaternion"), _third_of_a_turn),
    _case(Stiefel(), (4, 2), bad_shapes=_WIDE),
    _case(Stiefel(), (3, 3), awkward=_REFLECTION, bad_shapes=_WIDE),
    _case(Stiefel("polar"), (5, 2), bad_shapes=_WIDE),
    _case(Stiefel("householder"), (4, 3), bad_shapes=_WIDE),
    _case(Stiefel("cayley", view="k n -> n k"), (1, 3), bad_shapes=((3, 1), (4,))),
    _case(Grassmann(), (5, 2), awkward={"orthogonal to the start": _flipped}, bad_shapes=_WIDE),
    _case(
        Grassmann("cayley"), (4, 3), awkward={"orthogonal to the start": _flipped}, bad_shapes=_WIDE
    ),
    _case(Grassmann(view="k n -> n k"), (1, 3), bad_shapes=((3, 1), (4,))),
)
