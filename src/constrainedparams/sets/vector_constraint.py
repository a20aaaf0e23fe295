"""What all sets of vectors share: the last axis, and ``dim=``."""

from dataclasses import dataclass, field
from typing import ClassVar

from .contract import Constraint
from .views import Axes, Dim

__all__ = ["VectorConstraint"]


@dataclass(frozen=True, repr=False)
class VectorConstraint(Constraint):
    """A set of vectors: the last axis of y, or the axes that ``dim`` says.

    Args:
        dim: the axis of the vectors, a tuple of axes that together are one vector (``(1, 2, 3)``:
            the filters of a convolution), or None: the whole tensor is one vector.
    """

    event_dim: ClassVar[int] = 1
    dim: Dim = field(default=-1, kw_only=True)  # type: ignore[misc]

    def _make_layout(self) -> Axes | None:
        return None if self.dim == -1 else Axes(self.dim)
