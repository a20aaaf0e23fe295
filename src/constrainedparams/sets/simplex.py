"""Probability vectors: numbers with sum 1, some of them fixed at 0 where a mask says so."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics import sequences, vectors
from ..numerics.elementary import above_zero, precise
from .constants import Constant, broadcasts
from .contract import Shape
from .vector_constraint import VectorConstraint

__all__ = ["Simplex"]

_MARGIN = 0.01
_LEAST_HALF = 2.0**-24  # of float16: what a 0 in half precision may have been


@dataclass(frozen=True, repr=False)
class Simplex(VectorConstraint):
    """The simplex: positive numbers (closed: numbers >= 0) with sum 1, 0 outside of the mask.

    Open: y = softmax(x), y_i = exp(x_i) / sum_j exp(x_j). Values that would round to 0 become the
    smallest positive number of the dtype. Closed: y_i = x_i^2 / sum_j x_j^2, which reaches zeros
    and leaves them again (Levin, Kileel, Boumal, arXiv 2207.03512). The slope of an entry that is
    0 is 0, so nothing starts there: ``right_inverse`` gives the zeros of a vector the rounding unit
    together, and ``project`` 0.01/n each. Ordered: y = softmax(z) of increasing logits z_1 = x_1,
    z_i = z_(i-1) + softplus(x_i), strictly as in ``Ordered``. With a mask all of this is said of
    the entries where it is true, n of them in a vector; the others are 0, and x is not read there.

    Args:
        closed: whether zeros belong to the set.
        mask: true where y may differ from 0, of a shape that broadcasts to that of y, at least
            one true in each vector (where a Markov chain can go). ``dim`` is one axis then.
        ordered: whether y_1 < y_2 < ... < y_n belongs to the set, too; open ones without a mask.
        dim: the axis of the vectors (:class:`VectorConstraint`). For a matrix, ``dim=-1`` is
            row-stochastic and ``dim=0`` column-stochastic.

    Shapes: any with n >= 1 numbers in each vector; x has the shape of y. Dtypes: real.
    ``right_inverse`` gives log y minus its mean (open), y^(1/2) (closed), and ``retract`` brings x
    into that form. ``project`` is the nearest point with all entries at least 0.01/n, for vectors
    that are off the set; ``sample`` is uniform. The residual is the larger one of abs(sum - 1) and
    the distance of an entry from its bound; with two tolerances added, because a bound of an open
    set is outside. In half precision a 0 is read as a rounded positive number. The order counts as
    a bound, too; ordered ones are projected to the nearest point (isotonic regression first) and a
    hundredth of the way from there to y_i ~ i.

    Raises:
        OptionError: a mask that is not boolean, or under which nothing is left of a vector;
            ``ordered`` together with ``closed`` or a mask.
        ShapeError: vectors without entries, an axis that the tensor does not have, or a shape that
            the mask does not broadcast to.

    Example:
        >>> import torch
        >>> from constrainedparams import Simplex
        >>> Simplex()(torch.zeros(4))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
        >>> Simplex().contains(torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.5, 0.6]]))
        tensor([ True, False, False])
        >>> Simplex(closed=True).contains(torch.tensor([1.0, 0.0]))
        tensor(True)
        >>> Simplex(mask=[[True, True, False], [False, True, True]])(torch.zeros(2, 3))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.5000, 0.5000]])
    """

    closed: bool = False
    mask: Any = None
    ordered: bool = False

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: not self.closed)  # closed: not at x = 0

    @property
    def decay_target(self) -> str:
        if self.closed:
            return "itself; at x = 0 exactly, 1/n"
        return "2^(i - 1)/(2^n - 1)" if self.ordered else "1/n"

    def _check_options(self) -> None:
        if self.ordered and (self.closed or self.mask is not None):
            raise OptionError(
                f"{self!r}: ordered vectors are open and have no mask. Drop one of the options."
            )
        if self.mask is None:
            return
        if not isinstance(self.mask, Constant) or self.mask.value.dtype != torch.bool:
            raise OptionError(f"mask={self.mask!r}: expected booleans, such as `weight != 0`.")
        if not isinstance(self.dim, int):
            raise OptionError(f"mask= with dim={self.dim!r}: expected one axis, such as dim=-1.")
        value, axis = self.mask.value, self._axis
        known = -value.ndim <= axis < value.ndim
        if not bool((value.any(axis) if known else value).all()):
            raise OptionError(
                f"mask={self.mask!r} leaves nothing of a vector along dim={self.dim}, which has to "
                "sum to 1. Let at least one entry of each be true."
            )

    @property
    def _axis(self) -> int:
        """``dim``, which is one axis where there is a mask."""
        return self.dim  # type: ignore[return-value]

    def _check(self, shape: Shape) -> str | None:
        if shape[-1] == 0:
            return "expected at least one number in each vector. Check dim=, or use a larger layer."
        if self.mask is None:
            return None
        own, known = list(shape), tuple(self.mask.value.shape)
        own.insert(self._axis % len(own), own.pop())
        if broadcasts(self.mask, tuple(own)) and (self._axis < 0 or len(known) == len(own)):
            return None
        return f"the mask has shape {known}. Give a mask of the shape of the tensor."

    def _free(self, t: Tensor) -> Tensor:
        """Where vectors ``t`` along the last axis may differ from 0; broadcasts to ``t``."""
        if self.mask is None:
            return torch.ones((1,) * t.ndim, dtype=torch.bool, device=t.device)
        mask = self.mask.like(t) != 0
        return mask.reshape((1,) * (t.ndim - mask.ndim) + mask.shape).movedim(self._axis, -1)

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        free = self._free(x)
        if self.closed:
            return vectors.unit(torch.where(free, x, 0), free).square()
        if self.ordered:
            return self._apart(vectors.softmax(sequences.increasing(x)))
        return vectors.softmax(torch.where(free, x, -torch.inf))

    def _apart(self, y: Tensor) -> Tensor:
        return sequences.separated(above_zero(y))

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        low = y.to(dtype)
        free = None if self.mask is None else self.mask.like(low) != 0
        if self.closed:
            return low
        if self.ordered:
            return self._write(self._apart(self._read(low)), tuple(low.shape))
        return above_zero(low) if free is None else torch.where(free, above_zero(low), low)

    def _right_inverse(self, y: Tensor) -> Tensor:
        free = self._free(y)
        count = free.expand(y.shape).sum(-1, keepdim=True)
        if self.closed:
            unit = torch.finfo(y.dtype).eps / count.to(y.dtype)
            return torch.where(free, torch.where(y > 0, y, unit).sqrt(), 0)
        logarithms = torch.where(free, precise(y), 1).log()
        centred = torch.where(free, logarithms - logarithms.sum(-1, keepdim=True) / count, 0)
        return sequences.increasing_inverse(centred) if self.ordered else centred

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = torch.where(self._free(x), x, 0)
        if self.closed:
            return vectors.unit(x, self._free(x)), state
        if self.ordered:  # the first entry moves all logits alike
            return torch.cat((torch.zeros_like(x[..., :1]), x[..., 1:]), dim=-1), state
        count = self._free(x).expand(x.shape).sum(-1, keepdim=True)
        return torch.where(self._free(x), x - x.sum(-1, keepdim=True) / count, 0), state

    def _residual(self, y: Tensor) -> Tensor:
        beyond = 2 * self._tolerance(tuple(y.shape), y.dtype) - y
        inside = y >= 0 if self.closed else y > 0
        outside = torch.where(inside, torch.zeros_like(y), beyond)
        outside = torch.where(self._free(y), outside, y.abs()).amax(-1)
        if self.ordered:
            tied = 2 * self._tolerance(tuple(y.shape), y.dtype) - y.diff(dim=-1)
            tied = torch.where(y.diff(dim=-1) > 0, torch.zeros_like(tied), tied)
            outside = torch.cat((outside.unsqueeze(-1), tied), dim=-1).amax(-1)
        return torch.maximum((precise(y).sum(-1) - 1).abs().to(y.dtype), outside)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        # Entries are rounded to eps, those below the smallest normal number to eps times that.
        info = torch.finfo(dtype)
        return 8 * info.eps * (1 + info.tiny * shape[-1])

    def _polish(self, y: Tensor) -> Tensor:
        zero = torch.full_like(y, 0.0 if self.closed else _LEAST_HALF)
        positive = torch.where(self._free(y), torch.where(y > 0, y, zero), 0)
        return positive / positive.sum(-1, keepdim=True)

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        free = self._free(y)
        if self.ordered:
            nearest = vectors.nearest_in_simplex(sequences.isotonic(y, y[..., 0] * 0))
            ramp = torch.arange(1, y.shape[-1] + 1, dtype=nearest.dtype, device=y.device)
            moved = nearest + _MARGIN * (ramp / ramp.sum() - nearest)
        else:
            # A number over integers would be in the default dtype of the program.
            low = _MARGIN / precise(free.expand(y.shape).sum(-1, keepdim=True))
            moved = vectors.nearest_in_simplex(torch.where(free, y, -torch.inf), low)
        return torch.where(off.unsqueeze(-1), moved.to(y.dtype), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
        gaps = torch.where(self._free(u), above_zero(-torch.log1p(-u)), 0)
        y = gaps / gaps.sum(-1, keepdim=True)
        return self._apart(y.sort(-1).values) if self.ordered else y

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return shape[-1] - 1

    def _whole_dimension(self, shape: Shape, is_complex: bool) -> int:
        if self.mask is None:
            return super()._whole_dimension(shape, is_complex)
        free = self._free(torch.empty(shape, device="cpu")).expand(shape)
        return int(free.sum()) - free[..., 0].numel()
