"""Doubly stochastic matrices, and positive matrices with other given sums of rows and columns."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics.elementary import above_zero, precise
from ..numerics.scaling import scaled_to_sums
from .constants import Constant, as_tensor
from .contract import Shape
from .matrix_constraint import MatrixConstraint

__all__ = ["DoublyStochastic"]

_MARGIN = 0.01


@dataclass(frozen=True, repr=False)
class DoublyStochastic(MatrixConstraint):
    """Positive matrices whose rows and columns have given sums: 1, or those of a transport plan.

    y_ij = exp(x_ij + u_i + v_j), with the potentials u, v for which the sums are right to rounding
    (Sinkhorn 1964; found by Sinkhorn's iteration and Newton's, also for logits in the hundreds).
    The derivative is that of the equations which define them. Any numbers added to the rows and
    columns of x leave y as it is. Values that would round to 0 become the smallest positive number
    of the dtype.

    Args:
        rows: sums of the rows, positive: a list or tensor, a number for all, or None for 1 each.
        columns: sums of the columns, with the same total; None: equal ones with the total of the
            rows. With neither given y is square and all sums are 1.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, m); x has the shape of y. Dtypes: real.
    ``right_inverse`` gives log y with centred rows and columns, and ``retract`` centres x. The
    residual is the largest relative error of a sum, with two tolerances added where an entry is not
    positive. ``project`` raises entries to a hundredth of what independence would make of them and
    scales the result (the nearest such matrix to it in relative entropy). ``sample`` scales a
    matrix of independent exponentially distributed numbers.

    Raises:
        OptionError: sums that are not positive or have different totals.
        ShapeError: not square without sums, or another shape than the sums.

    Example:
        >>> import torch
        >>> from constrainedparams import DoublyStochastic
        >>> y = DoublyStochastic()(10 * torch.randn(3, 3))
        >>> y.sum(0), y.sum(1)
        (tensor([1., 1., 1.]), tensor([1., 1., 1.]))
        >>> plan = DoublyStochastic(rows=[0.5, 0.5], columns=[0.2, 0.3, 0.5])(torch.zeros(2, 3))
        >>> plan
        tensor([[0.1000, 0.1500, 0.2500],
                [0.1000, 0.1500, 0.2500]])
    """

    rows: Any = None
    columns: Any = None

    onto = property(lambda self: "the whole set")
    one_to_one = property(lambda self: False)
    smooth = property(lambda self: True)
    decay_target = property(lambda self: "rows columns^T / total; 1/n")

    def _check_options(self) -> None:
        for name, value in (("rows", self.rows), ("columns", self.columns)):
            if value is None:
                continue
            sums = as_tensor(value)
            if sums.is_complex() or not bool((torch.isfinite(sums) & (sums > 0)).all()):
                raise OptionError(f"{name}={value!r}: expected positive numbers.")
            if isinstance(value, Constant) and sums.ndim != 1:
                raise OptionError(f"{name} has shape {tuple(sums.shape)}; expected a vector.")
        if isinstance(self.rows, Constant) and isinstance(self.columns, Constant):
            totals = float(self.rows.value.sum()), float(self.columns.value.sum())
            if abs(totals[0] - totals[1]) > 1e-5 * totals[0]:
                raise OptionError(
                    f"the rows sum to {totals[0]:.7g} and the columns to {totals[1]:.7g}; expected "
                    "equal totals. Divide each by its sum."
                )

    def _check(self, shape: Shape) -> str | None:
        if 0 in shape[-2:]:
            return "expected at least one row and one column."
        for name, value, length in (
            ("rows", self.rows, shape[-2]),
            ("columns", self.columns, shape[-1]),
        ):
            if isinstance(value, Constant) and len(value.value) != length:
                return f"{name} has {len(value.value)} sums. Give one for each of {length}."
        if self.rows is None and self.columns is None and shape[-2] != shape[-1]:
            return "expected a square matrix. Otherwise give rows= or columns=."
        return None

    def _sums(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Of rows and columns in double precision, with exactly equal totals."""
        n, m = y.shape[-2:]
        wide = precise(y)
        known = [None if v is None else as_tensor(v, wide) for v in (self.rows, self.columns)]
        rows, columns = known
        if rows is None:
            total = m * 1.0 if columns is None else columns.expand(m).sum()
            rows = torch.ones(n, dtype=wide.dtype, device=wide.device) * (total / n)
        rows = rows.expand(n)
        columns = torch.ones_like(rows[:1]) if columns is None else columns
        columns = columns.expand(m)
        return rows, columns * (rows.sum() / columns.sum())

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return scaled_to_sums(precise(x), *self._sums(x)).to(x.dtype)

    def _round(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return above_zero(y.to(dtype))

    def _right_inverse(self, y: Tensor) -> Tensor:
        return self._retract(precise(y).log())[0]

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = x - x.mean(-1, keepdim=True)
        return x - x.mean(-2, keepdim=True), state

    def _residual(self, y: Tensor) -> Tensor:
        rows, columns = self._sums(y)
        wide = precise(y)
        error = torch.maximum(
            (wide.sum(-1) / rows - 1).abs().amax(-1), (wide.sum(-2) / columns - 1).abs().amax(-1)
        )
        closed = (y <= 0).any(-1).any(-1)
        return (error + 2 * self._tolerance(tuple(y.shape), y.dtype) * closed).to(y.dtype)

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        # Entries are rounded to eps, those below the smallest normal number to eps times that.
        info = torch.finfo(dtype)
        sums = [float(as_tensor(v).min()) for v in (self.rows, self.columns) if v is not None]
        return 8 * info.eps * (1 + info.tiny * max(shape[-2:]) / min(sums, default=1.0))

    def _polish(self, y: Tensor) -> Tensor:
        # A 0 in half precision is a positive number that was rounded.
        return scaled_to_sums(precise(y).clamp_min(2.0**-24).log(), *self._sums(y)).to(y.dtype)

    def _project(self, y: Tensor) -> Tensor:
        off = self._residual(y) > self._tolerance(tuple(y.shape), y.dtype)
        rows, columns = self._sums(y)
        least = _MARGIN * rows.unsqueeze(-1) * columns / rows.sum()
        moved = scaled_to_sums(torch.maximum(precise(y), least).log(), rows, columns)
        return torch.where(off[..., None, None], moved.to(y.dtype), y)

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
        logits = precise(above_zero(-torch.log1p(-u))).log()
        return scaled_to_sums(logits, *self._sums(u)).to(like.dtype)

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (shape[-2] - 1) * (shape[-1] - 1)
