"""One row of the table of sets: what a set claims, and values that put the claims to the test."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..sets.contract import Constraint

__all__ = ["Case"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A set with a shape, and what only its author can know.

    Args:
        constraint: the set.
        shape: a small shape of y with one element of the set (for a set of numbers: a few numbers).
        decay_target: the published f(0), from a formula of its own: y = decay_target(like), where
            ``like`` is f's value at the default start (map state included), and has the dtype of y.
        near_misses: name -> function of a point y of the set that gives a value just off the set.
        awkward: name -> function of ``torch.empty(shape, dtype=...)`` that gives a point of the set
            on which a map or its inverse might fail: the boundary, repeated eigenvalues, ...
        bad_shapes: shapes that the set refuses.
        coordinates: function of y that gives its free entries as a real vector (of a symmetric
            matrix: a triangle); needed where the set has a ``log_abs_det_jacobian``.
        dtypes: real dtypes in which the promises are checked; the complex versions follow from
            ``constraint.has_complex``.
        batched: whether more leading axes make a batch (not so under a ``view`` pattern).
        broken: promise -> reason, for promises that this set does not keep. The suite fails once
            such a promise holds.
    """

    constraint: Constraint
    shape: Shape
    decay_target: Callable[[Tensor], Tensor]
    near_misses: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    awkward: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    bad_shapes: tuple[Shape, ...] = ()
    coordinates: Callable[[Tensor], Tensor] | None = None
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64, torch.bfloat16)
    batched: bool = True
    broken: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.constraint!r}-{'x'.join(map(str, self.shape))}"

    @property
    def all_dtypes(self) -> tuple[torch.dtype, ...]:
        """Real dtypes, and complex64 and complex128 where the set has a complex version."""
        complex_ = (torch.complex64, torch.complex128) if self.constraint.has_complex else ()
        return self.dtypes + complex_

    @property
    def exact_dtypes(self) -> tuple[torch.dtype, ...]:
        """Those in which derivatives are compared with differences."""
        double = (torch.float64, torch.complex128)
        return tuple(dtype for dtype in self.all_dtypes if dtype in double)
