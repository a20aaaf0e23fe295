"""Tensors in which some entries are given."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from .constants import Constant, as_tensor, broadcasts
from .contract import Shape
from .linear import Linear

__all__ = ["FixedEntries"]


@dataclass(frozen=True, repr=False)
class FixedEntries(Linear):
    """Tensors with given entries: y = values where mask, x elsewhere.

    Sparsity patterns (values 0), masked layers, bands, a fixed first column. The entries of x below
    the mask are not read, get no gradient, and come back as the values.

    Args:
        mask: booleans that say which entries are given. Its axes are the last ones of y; an axis
            of length 1 is repeated.
        values: number or tensor that broadcasts to the mask.

    Shapes: any whose last axes the mask broadcasts to; x has the shape of y. Dtypes: real,
    complex. ``right_inverse`` gives x = y; ``project`` is f, which is nearest; ``sample`` is f of
    a normal tensor; the residual is the relative distance |y - f(y)| / |y|, over all the axes of
    the mask. log |det J| is 0.

    Raises:
        OptionError: a mask that is not boolean or has no axis, values that do not broadcast to it
            or are not finite.

    Example:
        >>> import torch
        >>> from constrainedparams import FixedEntries
        >>> hollow = FixedEntries(torch.eye(2).bool())
        >>> hollow(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[0., 2.],
                [3., 0.]])
        >>> hollow.dimension((2, 2))
        2
    """

    mask: Any
    values: Any = 0.0

    event_dim = property(lambda self: self.mask.value.ndim)
    one_to_one = property(lambda self: True)
    decay_target = property(lambda self: "the values, and 0 elsewhere")

    def _check_options(self) -> None:
        if not (isinstance(self.mask, Constant) and self.mask.value.dtype == torch.bool):
            raise OptionError(
                f"mask={self.mask!r}: expected a tensor of booleans, True where an entry is given. "
                "Write for example `mask=weight == 0`."
            )
        shape = tuple(self.mask.value.shape)
        if not broadcasts(self.values, shape):
            raise OptionError(
                f"values={self.values!r} do not broadcast to the mask, of shape {shape}. Give a "
                "number, or a tensor of that shape."
            )
        if not bool(torch.isfinite(as_tensor(self.values)).all()):
            raise OptionError(
                f"values={self.values!r}: expected finite numbers. Replace the others."
            )

    def _check(self, shape: Shape) -> str | None:
        own = tuple(self.mask.value.shape)
        if all(m in (1, n) for m, n in zip(own, shape[-len(own) :], strict=True)):
            return None
        return f"expected one that ends like that of the mask, {own}. Reshape the mask."

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.where(self.mask.like(x).real > 0, as_tensor(self.values, x), x)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        free = int((~self.mask.value).expand(shape).sum())
        return (2 if is_complex else 1) * free
