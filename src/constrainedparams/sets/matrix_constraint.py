"""What all sets of matrices share: the last two axes, and ``view=``."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ..errors import OptionError
from .contract import Constraint, Shape
from .views import BATCH, Sizes, View, frozen_sizes

__all__ = ["MatrixConstraint", "not_square"]


@dataclass(frozen=True, repr=False)
class MatrixConstraint(Constraint):
    """A set of matrices: the last two axes of y, or those that ``view`` says.

    Args:
        view: einops pattern that reads a tensor as matrices, such as ``"o i h w -> o (i h w)"`` for
            a convolution, or ``"batch"``: all axes but the last two are a batch.
        sizes: lengths of axes in the pattern that the shape does not give, such as ``{"heads": 8}``
            for ``"(heads d) e -> heads d e"``.
    """

    event_dim: ClassVar[int] = 2
    view: str | Literal["batch"] | None = field(default=None, kw_only=True)  # type: ignore[misc]
    sizes: Sizes = field(default=None, kw_only=True)  # type: ignore[misc]

    def _make_layout(self) -> View | None:
        sizes = frozen_sizes(self.sizes)
        if self.view is not None and self.view != BATCH:
            return View(self.view, sizes)
        if sizes is not None:
            raise OptionError(f"sizes={dict(sizes)} without a pattern in view=. Give view= too.")
        return None


def not_square(shape: Shape, remedy: str) -> str | None:
    """What :meth:`Constraint._check` says of matrices that are not square, None of others."""
    return None if shape[-2] == shape[-1] else f"expected square matrices. {remedy}"
