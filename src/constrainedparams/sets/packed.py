"""What sets of vectors share whose x has more numbers than y."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .contract import Constraint, Shape
from .views import Dim, Folded

__all__ = ["Packed"]


@dataclass(frozen=True, repr=False)
class Packed(Constraint):
    """x has slices more than y along the (first) axis of the vectors.

    x = (s, v) or (s, u, v): one slice, of which only the first number is read, and one copy or two
    of what has the shape of y. Hooks get matrices whose columns, one below the other, are one
    vector (:class:`Folded`); ``_unpack`` and ``_pack`` make vectors of them.

    Args:
        dim: the axis of the vectors, a tuple of axes that together are one vector, or None: the
            whole tensor is one vector.
    """

    event_dim: ClassVar[int] = 2
    dim: Dim = field(default=-1, kw_only=True)  # type: ignore[misc]
    _layout: ClassVar[Folded]

    @property
    def _copies(self) -> int:
        """How often the shape of y is in x, besides the slice; 0: x has the shape of y."""
        return 1

    def _make_layout(self) -> Folded:
        return Folded(self.dim)

    def _check(self, shape: Shape) -> str | None:
        if shape[-1] and shape[-2]:
            return None
        return "expected at least one number in each vector. Check dim=, or use a larger layer."

    def _unconstrained_shape(self, shape: Shape) -> Shape:
        return self._layout.resized(shape, self._copies, 1) if self._copies else shape

    def _constrained_shape(self, shape: Shape) -> Shape:
        return self._layout.original(shape, self._copies, 1) if self._copies else shape

    def _unpack(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The number s, along an axis of length 1, and the copies as vectors."""
        if not self._copies:
            return x.flatten(-2)[..., :0], (x.flatten(-2),)
        first = x[..., 0, :1]
        parts = x[..., 1:, :].chunk(self._copies, dim=-2)
        return first.real if x.is_complex() else first, tuple(p.flatten(-2) for p in parts)

    def _pack(self, first: Tensor, parts: tuple[Tensor, ...], shape: Shape) -> Tensor:
        """Undoes ``_unpack``; ``shape`` is that of y."""
        copies = [part.unflatten(-1, shape[-2:]) for part in parts]
        if not self._copies:
            return copies[0]
        rest = torch.zeros_like(copies[0][..., 0, 1:])
        slice_ = torch.cat((first.to(rest.dtype), rest), dim=-1).unsqueeze(-2)
        return torch.cat((slice_, *copies), dim=-2)
