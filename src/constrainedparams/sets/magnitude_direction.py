"""Vectors as a length and a direction: weight norm."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..numerics import vectors
from ..numerics.elementary import inverse_softplus, precise, softplus
from .contract import Shape
from .packed import Packed

__all__ = ["MagnitudeDirection"]

_MARGIN = 0.01


@dataclass(frozen=True, repr=False)
class MagnitudeDirection(Packed):
    """Vectors other than 0, by length and direction: y = softplus(g) v/|v|.

    Weight normalisation (Salimans, Kingma, arXiv 1602.07868), with a length that stays positive:
    the two are trained with gradients of their own. Packing: x is (g, v) along the axis of the
    vectors, n + 1 numbers for n, g first. Where the vectors have several axes, x has one slice more
    along the first of them; its first number is g, the others are not read.

    Args:
        dim: the axis of the vectors, a tuple of axes that together are one vector (``(1, 2, 3)``:
            the filters of a convolution), or None: the whole tensor is one vector.

    Shapes: any with at least one axis and one number in each vector; x is longer by 1 along the
    first axis of ``dim``. Dtypes: real, complex (g is real). In float16 a length below 6e-8 is
    rounded to 0. ``right_inverse`` gives g = softplus^-1(|y|) and v = y, and ``retract`` brings x
    into that form; v = 0 gives n^-1/2 (1, ..., 1) as direction. ``project`` moves the vector 0 to
    length 0.01 along it and no other; ``sample`` is normal; the residual is the distance, for 0 the
    smallest normal number.

    Raises:
        ShapeError: vectors without entries, a single number, or an axis that is not there.

    Example:
        >>> import torch
        >>> from constrainedparams import MagnitudeDirection
        >>> x = MagnitudeDirection().right_inverse(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> x.shape
        torch.Size([2, 3])
        >>> MagnitudeDirection()(x)
        tensor([[3., 4.],
                [0., 1.]])
    """

    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: False)  # not at v = 0
    decay_target = property(
        lambda self: "length ln(2), the direction stays; at x = 0 exactly n^-1/2 (1, ..., 1)"
    )

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        g, (v,) = self._unpack(x)
        # So long that the largest entry is a normal number.
        least = 2 * torch.finfo(x.dtype).tiny * v.shape[-1] ** 0.5
        y = (softplus(g) + least) * vectors.unit(v)
        return y.unflatten(-1, (x.shape[-2] - 1, x.shape[-1]))

    def _right_inverse(self, y: Tensor) -> Tensor:
        v = precise(y.flatten(-2))
        return self._pack(inverse_softplus(vectors.length(v).unsqueeze(-1)), (v,), tuple(y.shape))

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.cat((x[..., :1, :], self._forward(x)), dim=-2), state

    def _residual(self, y: Tensor) -> Tensor:
        tiny = torch.finfo(y.dtype).tiny
        size = y.abs().flatten(-2).amax(-1)
        return torch.where(size > 0, torch.zeros_like(size), tiny - size)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 0.0

    def _project(self, y: Tensor) -> Tensor:
        size = y.abs().flatten(-2).amax(-1)[..., None, None]
        return torch.where(size > 0, y, _MARGIN * (y.shape[-2] * y.shape[-1]) ** -0.5)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * shape[-2] * shape[-1]
