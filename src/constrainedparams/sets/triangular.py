"""What lower and upper triangular matrices share."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import OptionError
from ..numerics.linear import triangle
from .contract import Shape
from .linear import Linear

__all__ = ["Triangular"]


@dataclass(frozen=True, repr=False)
class Triangular(Linear):
    """y = tril(x) or triu(x), the diagonal free or given."""

    diagonal: float | None = None

    _lower: ClassVar[bool]
    one_to_one = property(lambda self: True)

    @property
    def decay_target(self) -> str:
        return f"{self.diagonal:g} I" if self.diagonal else "0"

    def _check_options(self) -> None:
        known = isinstance(self.diagonal, int | float) and math.isfinite(self.diagonal)
        if self.diagonal is not None and not known:
            raise OptionError(
                f"diagonal={self.diagonal!r}: expected None, or a finite number such as 1.0. For "
                "one that varies use FixedEntries(mask, values)."
            )

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return triangle(x, self._lower, self.diagonal)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        n, m = shape if self._lower else shape[::-1]
        k = min(n, m)
        count = k * (k + 1) // 2 + (n - k) * m
        return (2 if is_complex else 1) * (count if self.diagonal is None else count - k)
