"""Rotations of three-dimensional space, from two columns or a quaternion."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import OptionError, ShapeError
from ..numerics import orthogonal as maps
from ..numerics import rotations
from ..numerics.elementary import oriented
from .contract import Shape
from .matrix_constraint import MatrixConstraint
from .views import View

__all__ = ["Rotation3D"]

_TAILS = {"6d": (3, 2), "quaternion": (4,)}


@dataclass(frozen=True, repr=False)
class Rotation3D(MatrixConstraint):
    """SO(3): 3 x 3 matrices with y^T y = I and det y = 1, from 6 or 4 numbers.

    ``"6d"``: Gram-Schmidt of the two columns of x, and their cross product (Zhou, Barnes, Lu, Yang,
    Li, arXiv 1812.07035). ``"quaternion"``: v -> q v q^-1 with q = x/|x|, the real part first.
    Neither has a base, and every rotation is reached from far away without a detour, which the
    exponential of :class:`SpecialOrthogonal` does not do. The scale of x changes nothing in y; its
    gradient grows as 1/|x|; ``retract`` scales x back. Where the map is not defined (columns that
    are parallel, x = 0) y is a rotation, and the gradient leads away.

    Args:
        map: ``"6d"`` or ``"quaternion"``.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., 3, 3); x is (..., 3, 2) or (..., 4). Dtypes: real. ``right_inverse`` gives the
    first two columns of y, or the quaternion whose largest entry is positive; ``project`` is the
    nearest rotation (Kabsch 1976); ``sample`` is Haar; the residual is |y^T y - I|_F, plus 2 where
    the determinant is negative.

    Raises:
        OptionError: an unknown map.
        ShapeError: not 3 x 3.

    Example:
        >>> import torch
        >>> from constrainedparams import Rotation3D
        >>> Rotation3D("quaternion")(torch.tensor([1.0, 0.0, 0.0, 1.0])).round().int().tolist()
        [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
        >>> Rotation3D().right_inverse(torch.eye(3)).shape
        torch.Size([3, 2])
    """

    map: Literal["6d", "quaternion"] = "6d"

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: False)  # not where x is 0 or its columns are parallel
    dtype_remedy: ClassVar[str] = "For complex matrices use SpecialUnitary()."

    @property
    def decay_target(self) -> str:
        return "itself; at x = 0 exactly, a rotation that takes (1, 0, 0) to " + (
            "3^-1/2 (1, 1, 1)" if self.map == "6d" else "(0, 1, 0)"
        )

    def _check_options(self) -> None:
        if not isinstance(self.map, str) or self.map not in _TAILS:
            raise OptionError(f"map={self.map!r}: expected one of '6d', 'quaternion'.")

    def _check(self, shape: Shape) -> str | None:
        if shape[-2:] == (3, 3):
            return None
        return "expected 3 x 3 matrices. For rotations of another size use SpecialOrthogonal()."

    def _unconstrained_shape(self, shape: Shape) -> Shape:
        return (*self._matrix_shape(shape)[:-2], *_TAILS[self.map])

    def _constrained_shape(self, shape: Shape) -> Shape:
        tail = _TAILS[self.map]
        if shape[-len(tail) :] != tail:
            raise ShapeError(
                f"{self!r} got an x of shape {shape}; expected (..., "
                f"{', '.join(map(str, tail))}). Take x from right_inverse."
            )
        matrix = (*shape[: -len(tail)], 3, 3)
        return self._layout.tensor_shape(matrix) if isinstance(self._layout, View) else matrix

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return rotations.from_columns(x) if self.map == "6d" else rotations.from_quaternion(x)

    def _right_inverse(self, y: Tensor) -> Tensor:
        near = maps.rotation(y)
        return near[..., :2] if self.map == "6d" else rotations.quaternion(near)

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._right_inverse(self._forward(x)), state

    def _residual(self, y: Tensor) -> Tensor:
        return (maps.defect(y) + maps.determinant_gap(y)).to(y.dtype)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        eps = torch.finfo(dtype).eps
        return 4 * eps + 24 * min(eps, torch.finfo(torch.float32).eps)

    def _project(self, y: Tensor) -> Tensor:
        return maps.rotation(y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        draw = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        return oriented(maps.haar(draw))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return 3
