"""Vectors whose norm is bounded."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import balls
from ..numerics.elementary import above_zero, with_value
from .contract import Shape
from .packed import Packed
from .radius import check_radius

__all__ = ["Ball"]

_MARGIN = 0.01


@dataclass(frozen=True, repr=False)
class Ball(Packed):
    """The ball |y|_p < r (closed: <= r) of the norm p = 1, 2 or infinity.

    Open, one-to-one: y = r x / (1 + |x|_p^p)^(1/p), and r tanh(x) for infinity; y stays inside for
    every x. Closed: y = r v of the unit vector (s, v) for p = 2, the lift of the ball to a sphere
    (Levin, Kileel, Boumal, arXiv 2207.03512), r sin(x) for infinity, and r (u^2 - v^2) of the unit
    vector (s, u, v) for p = 1: they reach the boundary and leave it again.
    Packing: where a number s is needed, x is (s, v) or (s, u, v) along the axis of the vectors,
    n + 1 or 2n + 1 numbers for n. Where those have several axes, x has one slice more along the
    first of them, of which only the first number, s, is read.

    Args:
        radius: r > 0.
        p: the norm: 1, 2 or ``math.inf``.
        closed: whether the boundary belongs to the set.
        dim: the axis of the vectors, a tuple of axes that together are one vector, or None: the
            whole tensor is one vector.

    Shapes: any with at least one axis and one number in each vector; x has the shape of y, or that
    longer along the first axis of ``dim``. Dtypes: real; complex for p = 2.
    ``project`` is nearest for vectors that are off the set, of the ball of 0.99 r when open;
    ``sample`` is uniform (Barthe et al., Ann. Probab. 33, 2005); the residual is |y|_p - r.

    Raises:
        OptionError: a radius that is not positive and finite, another p.
        ShapeError: vectors without entries, a single number, or an axis that is not there.

    Example:
        >>> import torch
        >>> from constrainedparams import Ball
        >>> Ball(1.0)(torch.tensor([3.0, 4.0])).norm() < 1
        tensor(True)
        >>> Ball(2.0, 1, closed=True).project(torch.tensor([3.0, 0.5]))
        tensor([2., 0.])
    """

    radius: float = 1.0
    p: float = 2
    closed: bool = False

    has_complex = property(lambda self: self.p == 2)
    dtype_remedy: ClassVar[str] = "Complex vectors have the ball with p=2."
    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: not self.closed)
    decay_target = property(
        lambda self: "itself; at x = 0 exactly, 0" if self.closed and self._copies else "0"
    )

    @property
    def smooth(self) -> bool:  # else not at x = 0, or where an entry of x is 0 (p = 1)
        return self.p == math.inf or (self.p == 2 and not self.closed)

    @property
    def _copies(self) -> int:
        return {1.0: 2, 2.0: 1}.get(self.p, 0) if self.closed else 0

    def _check_options(self) -> None:
        check_radius(self.radius)
        if self.p not in (1, 2, math.inf):
            raise OptionError(f"p={self.p!r}: expected 1, 2 or math.inf.")

    def _limit(self, dtype: torch.dtype, units: int = 2) -> float:
        """The largest norm in the set. Maps keep 4 units off, which rounding makes 2 at least."""
        return self.radius * (1 if self.closed else 1 - units * torch.finfo(dtype).eps)

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        first, parts = self._unpack(x)
        if self.closed:
            y = self.radius * balls.closed(first, parts, self.p)
        else:
            y = self.radius * balls.opened(parts[0], self.p)
            y = with_value(y, balls.nearest(y, self._limit(x.dtype, 4), self.p).to(y.dtype))
        rows = (x.shape[-2] - 1) // self._copies if self._copies else x.shape[-2]
        return y.unflatten(-1, (rows, x.shape[-1]))

    def _right_inverse(self, y: Tensor) -> Tensor:
        v = y.flatten(-2) / self.radius
        if self.closed:
            return self._pack(*balls.closed_inverse(v, self.p), tuple(y.shape))
        return balls.opened_inverse(v, self.p).unflatten(-1, y.shape[-2:])

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if not self._copies:
            return x, state
        size = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
        return x / torch.where(size > 0, size, torch.ones_like(size)), state

    def _residual(self, y: Tensor) -> Tensor:
        over = balls.norm(y.flatten(-2), self.p) - self._limit(y.dtype)
        return over.clamp_min(0).to(y.real.dtype)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        half = torch.finfo(dtype).bits <= 16
        return 4 * torch.finfo(dtype).eps * self.radius if self.closed or half else 0.0

    def _polish(self, y: Tensor) -> Tensor:
        return self._moved(y, self._limit(y.dtype, 4))

    def _moved(self, y: Tensor, radius: float) -> Tensor:
        return balls.nearest(y.flatten(-2), radius, self.p).unflatten(-1, y.shape[-2:]).to(y.dtype)

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        inside = self._moved(y, self.radius * (1.0 if self.closed else 1 - _MARGIN))
        return torch.where(self._per_element(off), inside, y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        limit = self._limit(like.dtype, 4)
        u = torch.rand(shape, dtype=like.real.dtype, device=like.device, generator=generator)
        if self.p == math.inf:
            return self._moved(self.radius * (2 * u - 1), limit)
        g = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        rest = torch.rand(shape[:-2], dtype=u.dtype, device=u.device, generator=generator)
        rest = above_zero(-torch.log1p(-rest))[..., None, None]
        if self.p == 1:
            g = -torch.log1p(-u) * torch.where(g < 0, -1.0, 1.0)
            size = g.abs().sum((-2, -1), keepdim=True) + rest
        else:  # variance 1/2, also of each part of a complex entry
            g = g if like.is_complex() else g * 0.5**0.5
            size = (g.abs().square().sum((-2, -1), keepdim=True) + rest).sqrt()
        return self._moved(self.radius * g / size, limit)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * shape[-2] * shape[-1]

    def _log_abs_det_jacobian(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.closed:
            return super()._log_abs_det_jacobian(x)
        v = x.flatten(-2)
        n = v.shape[-1] * (2 if v.is_complex() else 1)
        return balls.stretch(v, self.p) + n * math.log(self.radius)
