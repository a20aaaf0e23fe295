"""Rows of the linear spaces of matrices, and of what is built from blocks and given entries."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...sets.block_diagonal import BlockDiagonal
from ...sets.circulant import Circulant
from ...sets.diagonal import Diagonal
from ...sets.fixed_entries import FixedEntries
from ...sets.linear import Linear
from ...sets.lower_triangular import LowerTriangular
from ...sets.orthogonal import Orthogonal
from ...sets.positive_definite import PositiveDefinite
from ...sets.skew import Skew
from ...sets.symmetric import Symmetric
from ...sets.toeplitz import Toeplitz
from ...sets.traceless import Traceless
from ...sets.upper_triangular import UpperTriangular
from ..case import Case
from .points import bump, identity, triangle

__all__ = ["ROWS"]


def _corner(y: Tensor) -> Tensor:
    """``y`` with one entry off the diagonal enlarged, and not its mirror image."""
    return bump(y.flip(-1)).flip(-1)


def _last(y: Tensor) -> Tensor:
    """``y`` with an entry of the last row enlarged."""
    return bump(y.flip(-2)).flip(-2)


def _free(mask: Tensor) -> Callable[[Tensor], Tensor]:
    """The entries of y where ``mask`` is True, as a real vector."""

    def entries(y: Tensor) -> Tensor:
        kept = y[mask.expand(y.shape)]
        return torch.view_as_real(kept).flatten() if y.is_complex() else kept

    return entries


def _linear(constraint: Linear, shape: tuple[int, ...], **more: object) -> Case:
    """``near_misses`` in ``more`` are those of the space; ``viewed``: it has no batch axes."""
    viewed = bool(more.pop("viewed", False))
    near_misses: dict = {"one entry off": _corner, **more.pop("near_misses", {})}  # type: ignore
    return Case(
        constraint,
        shape,
        near_misses=near_misses,
        awkward={
            "zero": lambda y: constraint.project(torch.zeros_like(y)),
            "large": lambda y: constraint.project(1e30 * _corner(torch.zeros_like(y))),
            **more.pop("awkward", {}),  # type: ignore
        },
        batched=not viewed,
        **{"decay_target": torch.zeros_like, "bad_shapes": ((3,), (3, 2), (2, 3)), **more},  # type: ignore
    )


_SKEW = {"an entry on the diagonal": bump, "the identity": identity}
_IDENTITY = {"identity": identity}
_PATTERN = torch.tensor([[True, False, True], [False, False, True]])
_VALUES = torch.tensor([[1.0, 0.0, -0.1], [0.0, 0.0, 2.5]], dtype=torch.float64)

ROWS: tuple[Case, ...] = (
    _linear(Symmetric(), (3, 3), awkward=_IDENTITY),
    _linear(Symmetric(view="o i h w -> o i h w"), (2, 1, 2, 2), viewed=True),
    _linear(Skew(), (3, 3), near_misses=_SKEW),
    _linear(
        Skew(view="(blocks n) m -> blocks n m", sizes={"blocks": 2}),
        (4, 2),
        near_misses=_SKEW,
        viewed=True,
        bad_shapes=((4,), (4, 4), (3, 2)),
    ),
    _linear(
        Traceless(),
        (3, 3),
        near_misses={"one entry off": bump, "the identity": identity},
        awkward={"beside a large trace": lambda y: Traceless()(_corner(1e6 * identity(y)))},
    ),
    _linear(
        Toeplitz(),
        (3, 4),
        near_misses={"one entry off": bump},
        awkward=_IDENTITY,
        bad_shapes=((3,), ()),
    ),
    _linear(Circulant(), (3, 3), awkward=_IDENTITY),
    _linear(
        LowerTriangular(),
        (3, 2),
        awkward=_IDENTITY,
        bad_shapes=((3,), ()),
        coordinates=_free(torch.ones(3, 2).tril().bool()),
    ),
    _linear(
        LowerTriangular(diagonal=1.0),
        (3, 3),
        decay_target=identity,
        near_misses={"the diagonal off": bump, "zero": torch.zeros_like},
        awkward=_IDENTITY,
        bad_shapes=((3,), ()),
        coordinates=_free(torch.ones(3, 3).tril(-1).bool()),
    ),
    _linear(
        UpperTriangular(),
        (2, 3),
        near_misses={"one entry off": _last},
        awkward=_IDENTITY,
        bad_shapes=((3,), ()),
        coordinates=_free(torch.ones(2, 3).triu().bool()),
    ),
    _linear(
        UpperTriangular(diagonal=0.0),
        (3, 3),
        near_misses={"one entry off": _last, "the diagonal off": bump},
        bad_shapes=((3,), ()),
        coordinates=_free(torch.ones(3, 3).triu(1).bool()),
    ),
    _linear(
        Diagonal(),
        (3, 2),
        awkward=_IDENTITY,
        bad_shapes=((3,), ()),
        coordinates=_free(torch.eye(3, 2).bool()),
    ),
    _linear(
        FixedEntries(_PATTERN, _VALUES),
        (2, 3),
        decay_target=lambda like: _VALUES.to(like.dtype),
        near_misses={"zero": torch.zeros_like},
        bad_shapes=((3,), (3, 2)),
        coordinates=_free(~_PATTERN),
    ),
    _linear(
        FixedEntries([[True], [False]]),
        (2, 3),
        near_misses={"one entry off": bump},
        bad_shapes=((3,), (3, 2)),
        coordinates=_free(torch.tensor([[False], [True]])),
    ),
    _linear(
        BlockDiagonal(2),  # type: ignore[arg-type]
        (2, 4),
        bad_shapes=((4,), (3, 4), (2, 3)),
        coordinates=_free(torch.eye(2).kron(torch.ones(1, 2)).bool()),
    ),
    Case(
        BlockDiagonal(2, Orthogonal()),
        (4, 4),
        decay_target=lambda base: base,
        near_misses={"an entry outside": _corner, "one entry off": bump, "zero": torch.zeros_like},
        awkward={"identity": identity},
        bad_shapes=((4,), (3, 4), (4, 3)),
    ),
    Case(
        BlockDiagonal(2, PositiveDefinite(), view="i j a -> a i j"),
        (4, 4, 1),
        decay_target=lambda like: 0.6931471805599453**2 * identity(like[..., 0])[..., None],
        near_misses={"zero": torch.zeros_like, "negative": torch.neg},
        awkward={"identity": lambda y: identity(y[..., 0])[..., None]},
        bad_shapes=((4, 4), (4, 6, 1)),
        coordinates=lambda y: torch.cat((triangle(y[:2, :2, 0]), triangle(y[2:, 2:, 0]))),
        batched=False,
    ),
)
