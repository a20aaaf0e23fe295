"""Vectors with sum 0, and matrices whose rows and columns have it."""

from dataclasses import dataclass, field

from torch import Tensor

from ..errors import OptionError
from ..numerics.linear import centred
from .contract import Shape
from .linear import Linear
from .views import Axes, Dim, Moved

__all__ = ["SumToZero"]


@dataclass(frozen=True, repr=False)
class SumToZero(Linear):
    """Sum 0 along an axis, or along each of several: y is x minus its mean along them.

    The orthogonal projector (centring), to rounding of the size of y beside a mean of any size.

    Args:
        dim: the axis with sum 0: -1 centres the rows of a matrix, 0 its columns, ``(0, 1)`` both.
        joint: the axes of ``dim`` are one vector with one sum; then None stands for all axes.

    Shapes: any; x has the shape of y. Dtypes: real, complex.
    ``right_inverse`` gives x = y; ``project`` is f, which is nearest; ``sample`` is f of a normal
    tensor; the residual is relative, |y - f(y)| / |y| over the axes of ``dim``.

    Raises:
        OptionError: None as ``dim`` without ``joint``.
        ShapeError: an axis that the tensor does not have.

    Example:
        >>> import torch
        >>> from constrainedparams import SumToZero
        >>> SumToZero()(torch.tensor([[1.0, 3.0], [2.0, 8.0]]))
        tensor([[-1.,  1.],
                [-3.,  3.]])
        >>> SumToZero(dim=(0, 1))(torch.tensor([[1.0, 3.0], [2.0, 8.0]]))
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """

    dim: Dim = field(default=-1, kw_only=True)  # type: ignore[misc]
    joint: bool = field(default=False, kw_only=True)

    event_dim = property(lambda self: len(self._axes))

    @property
    def _axes(self) -> tuple[int, ...]:
        """One number for each axis of an element."""
        return self.dim if isinstance(self.dim, tuple) and not self.joint else (-1,)

    def _check_options(self) -> None:
        if self.dim is None and not self.joint:
            raise OptionError(
                "dim=None: expected the axes, each of which gets sum 0. For one sum over the whole "
                "tensor write SumToZero(dim=None, joint=True)."
            )

    def _make_layout(self) -> Axes | Moved:
        return Axes(self.dim) if self.joint else Moved(self.dim)

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return centred(x, self.event_dim)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        count = 2 if is_complex else 1
        for length in shape:
            count *= max(length - 1, 0)
        return count
