"""Block-diagonal matrices, with blocks on a set."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import OptionError
from ..numerics.linear import diagonal_blocks, from_blocks
from ..numerics.vectors import relative_distance
from .contract import Constraint, Shape
from .linear import Linear
from .matrix_constraint import MatrixConstraint

__all__ = ["BlockDiagonal"]


@dataclass(frozen=True, repr=False)
class _AnyMatrix(MatrixConstraint, Linear):
    """All matrices: y = x."""

    one_to_one = property(lambda self: True)

    def _forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        return (2 if is_complex else 1) * shape[-2] * shape[-1]


@dataclass(frozen=True, repr=False)
class BlockDiagonal(MatrixConstraint):
    """Block-diagonal matrices: equal blocks along the diagonal, each on a set, and 0 elsewhere.

    The blocks are one batch for the map of their set. Entries of x outside of them are not read.
    (Heads or groups that are stored without the zeros need no set of their own: ``view=``.)

    Args:
        blocks: how many.
        block: the set of matrices of each block, without ``view``; None: all matrices.
        view, sizes: how to read a tensor as matrices (:class:`MatrixConstraint`).

    Shapes: (..., n, m) with n and m multiples of ``blocks``; x and map state have the shape of y.
    Dtypes: those of the block. ``project`` and ``sample`` are those of the block; the residual is
    the largest one of the blocks plus |entries outside|_F / |y|_F. Properties and log |det J| are
    the block's.

    Raises:
        OptionError: ``blocks`` is no positive integer; ``block`` is no set of matrices, or has a
            view.
        ShapeError: the shape does not split, or the block does not exist in that shape.

    Example:
        >>> import torch
        >>> from constrainedparams import BlockDiagonal, Orthogonal
        >>> BlockDiagonal(2)(torch.ones(2, 4))
        tensor([[1., 1., 0., 0.],
                [0., 0., 1., 1.]])
        >>> y = BlockDiagonal(3, Orthogonal())(torch.randn(6, 6))
        >>> torch.allclose(y @ y.T, torch.eye(6), atol=1e-5)
        True
    """

    blocks: int
    block: Constraint | None = None

    has_complex = property(lambda self: self._inner.has_complex)
    state_names = property(lambda self: self._inner.state_names)
    onto = property(lambda self: self._inner.onto)
    one_to_one = property(lambda self: self._inner.one_to_one)
    smooth = property(lambda self: self._inner.smooth)
    decay_target = property(lambda self: f"blocks: {self._inner.decay_target}")

    @property
    def _inner(self) -> Constraint:
        return _AnyMatrix() if self.block is None else self.block

    def _check_options(self) -> None:
        if type(self.blocks) is not int or self.blocks < 1:
            raise OptionError(f"blocks={self.blocks!r}: expected their number, 1 or more.")
        if not isinstance(self._inner, MatrixConstraint) or self._inner.view is not None:
            raise OptionError(
                f"block={self.block!r}: expected a set of matrices without view=, such as "
                "Orthogonal(). The view of the whole belongs to BlockDiagonal."
            )

    def _shape(self, shape: Shape) -> Shape:
        """The shape of the blocks."""
        *batch, n, m = shape
        return (*batch, self.blocks, n // self.blocks, m // self.blocks)

    def _check(self, shape: Shape) -> str | None:
        if shape[-2] % self.blocks or shape[-1] % self.blocks:
            return f"expected both lengths to be multiples of blocks={self.blocks}."
        self._inner.check_shape(own := self._shape(shape))
        if self._inner.unconstrained_shape(own) == own:
            return None
        return f"x of {self._inner!r} has another shape than y. Register the blocks one by one."

    def _split(self, t: Tensor) -> Tensor:
        return diagonal_blocks(t, self.blocks)

    def _forward(self, x: Tensor, **state: Tensor) -> Tensor:
        own = {k: self._split(v) for k, v in state.items()}
        return from_blocks(self._inner._forward(self._split(x), **own))

    def _right_inverse(self, y: Tensor) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        found = self._inner._right_inverse(self._split(y))
        x, state = found if isinstance(found, tuple) else (found, {})
        return from_blocks(x), {k: from_blocks(v) for k, v in state.items()}

    def _retract(self, x: Tensor, **state: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        own = {k: self._split(v) for k, v in state.items()}
        moved, after = self._inner._retract(self._split(x), **own)
        return from_blocks(moved), {k: from_blocks(v) for k, v in after.items()}

    def _residual(self, y: Tensor) -> Tensor:
        blocks = self._split(y)
        return self._inner._residual(blocks).amax(-1) + relative_distance(y, from_blocks(blocks))

    def _tolerance(self, shape: Shape, dtype: torch.dtype) -> float:
        return self._inner._tolerance(self._shape(shape), dtype)

    def _project(self, y: Tensor) -> Tensor:
        return from_blocks(self._inner._project(self._split(y)))

    def _polish(self, y: Tensor) -> Tensor:
        return from_blocks(self._inner._polish(self._split(y)))

    def _sample(self, shape: Shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
        return from_blocks(self._inner._sample(self._shape(shape), like, generator))

    def _dimension(self, shape: Shape, is_complex: bool) -> int:
        own = self._shape(shape)
        return self.blocks * self._inner._dimension(own[1:], is_complex)

    def _log_abs_det_jacobian(self, x: Tensor, **state: Tensor) -> Tensor:
        own = {k: self._split(v) for k, v in state.items()}
        return self._inner._log_abs_det_jacobian(self._split(x), **own).sum(-1)
