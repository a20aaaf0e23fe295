"""Matrices of nuclear norm at most a radius."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ShapeError
from ..numerics.elementary import precise
from ..numerics.vectors import nearest_in_simplex, sine_of_length
from .contract import Shape
from .matrix_constraint import MatrixConstraint
from .radius import check_radius
from .views import View

__all__ = ["NuclearNormBall"]


def _stacked(shape: Shape) -> Shape:
    """The shape of x for matrices of this shape."""
    *batch, n, k = shape
    return (*batch, n + k, k) if n >= k else (*batch, n, n + k)


@dataclass(frozen=True, repr=False)
class NuclearNormBall(MatrixConstraint):
    """The closed ball of the nuclear norm: the sum of the singular values is at most r.

    y = U V^H with the stack [U; V] = (2 r)^1/2 sin(|x|_F) x / |x|_F, so that |U|_F^2 + |V|_F^2 is
    at most 2 r: the nuclear norm of y is the least (|U|_F^2 + |V|_F^2)/2 (Srebro, Rennie, Jaakkola,
    NIPS 2004). It reaches the bound and low ranks and leaves them again. The derivative is 0 at
    x = 0, and radially at the bound, so nothing starts there: ``right_inverse`` takes singular
    values below a rounding unit of r for that, and stays a rounding unit off the bound.

    Args:
        radius: r > 0.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, k). x stacks U over V, (..., n + k, k), where n >= k; a wide y is the conjugate
    transpose of a tall one, and x is (..., n, n + k). The batch axes of x are those of the matrices
    (then a ``view`` needs ``sizes`` of all axes that share a side). Dtypes: real, complex.
    ``right_inverse`` splits the SVD in equal parts, U S^1/2 and V S^1/2. ``project`` is the nearest
    point: singular values moved to the nearest point of the simplex (Duchi et al., ICML 2008).
    ``sample`` is f of an x with a uniform direction and sin(|x|) that of a uniform point of the
    ball of x. The residual is how far the norm over r is above 1.

    Raises:
        OptionError: a radius that is not positive and finite.
        ShapeError: no rows or no columns.

    Example:
        >>> import torch
        >>> from constrainedparams import NuclearNormBall
        >>> y = NuclearNormBall(2.0)(torch.randn(8, 3))
        >>> y.shape, bool(torch.linalg.matrix_norm(y, "nuc") <= 2.0)
        (torch.Size([5, 3]), True)
        >>> NuclearNormBall().project(torch.diag(torch.tensor([3.0, 1.0])))
        tensor([[1., 0.],
                [0., 0.]])
    """

    radius: float = 1.0

    has_complex: ClassVar[bool] = True
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "0, where the derivative is 0 as well")

    def _check_options(self) -> None:
        check_radius(self.radius)

    def _check(self, shape: Shape) -> str | None:
        if min(shape[-2:]) > 0:
            return None
        return "expected at least one row and one column. Use a larger layer."

    def _unconstrained_shape(self, shape: Shape) -> Shape:
        return _stacked(self._matrix_shape(shape))

    def _constrained_shape(self, shape: Shape) -> Shape:
        *batch, a, b = shape if len(shape) > 1 else (0, 0)
        matrix = (*batch, a - b, b) if a > b else (*batch, a, b - a)
        if min(matrix[-2:]) < 1 or max(a, b) < 2 * min(a, b):
            raise ShapeError(
                f"{self!r} got an x of shape {shape}; expected (..., n + k, k) for a y of shape "
                "(..., n, k), n >= k, or (..., n, n + k), n < k. Take x from right_inverse."
            )
        return self._layout.tensor_shape(matrix) if isinstance(self._layout, View) else matrix

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if x.shape[-2] < x.shape[-1]:
            return self._forward(x.mH).mH
        z = sine_of_length(x.flatten(-2)).unflatten(-1, x.shape[-2:])
        n = x.shape[-2] - x.shape[-1]
        return 2 * self.radius * (z[..., :n, :] @ z[..., n:, :].mH)

    def _right_inverse(self, y: Tensor) -> Tensor:
        if y.shape[-2] < y.shape[-1]:
            return self._right_inverse(y.mH).mH
        eps = torch.finfo(y.dtype).eps
        u, s, vh = torch.linalg.svd(precise(y) / self.radius, full_matrices=False)
        roots = s.clamp_min(eps).sqrt().unsqueeze(-2)
        z = torch.cat((u * roots, vh.mH * roots), dim=-2)
        size = torch.linalg.matrix_norm(z, keepdim=True)  # 2^1/2 at the bound
        return z / size * torch.asin((0.5**0.5 * size).clamp_max(1 - eps))

    def _residual(self, y: Tensor) -> Tensor:
        return (torch.linalg.svdvals(precise(y)).sum(-1) / self.radius - 1).clamp_min(0)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return 4 * min(shape[-2:]) ** 0.5 * torch.finfo(dtype).eps

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        u, s, vh = torch.linalg.svd(precise(y), full_matrices=False)
        s = self.radius * nearest_in_simplex(s / self.radius)
        return torch.where(off[..., None, None], ((u * s.unsqueeze(-2)) @ vh).to(y.dtype), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        made = _stacked(shape)
        x = torch.randn(made, dtype=like.dtype, device=like.device, generator=generator)
        u = torch.rand(made[:-2], dtype=like.real.dtype, device=like.device, generator=generator)
        count = (2 if like.is_complex() else 1) * made[-2] * made[-1]
        angle = torch.asin(u ** (1 / count))[..., None, None]
        return self._forward(angle * x / torch.linalg.matrix_norm(x, keepdim=True))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * shape[-2] * shape[-1]
