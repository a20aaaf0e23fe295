"""How a tensor of any number of axes is read as matrices (an einops pattern) or vectors (axes)."""

import math
import re
from collections.abc import Mapping
from typing import Any

from einops import rearrange
from torch import Tensor

from ..errors import OptionError, ShapeError

__all__ = ["BATCH", "Axes", "Folded", "Moved", "View", "frozen_dim", "frozen_sizes"]

BATCH = "batch"
Sizes = Mapping[str, int] | tuple[tuple[str, int], ...] | None
Dim = int | tuple[int, ...] | None


def frozen_sizes(sizes: Sizes) -> tuple[tuple[str, int], ...] | None:
    """``sizes`` as a value that can be compared, hashed and printed."""
    try:
        return None if sizes is None else tuple((str(k), int(v)) for k, v in dict(sizes).items())
    except (TypeError, ValueError):
        raise OptionError(
            f'sizes={sizes!r}: expected lengths by the names of axes, such as {{"heads": 8}}.'
        ) from None


def frozen_dim(dim: Any) -> Dim:
    """``dim`` as an int, a tuple of ints, or None for all axes."""
    axes = tuple(dim) if isinstance(dim, tuple | list) else (dim,)
    if dim is not None and not (axes and all(type(axis) is int for axis in axes)):
        raise OptionError(
            f"dim={dim!r}: expected an axis such as -1, a tuple of axes, or None for all of them."
        )
    return axes if isinstance(dim, list) else dim


def _groups(side: str) -> list[list[str]]:
    """The axes named on one side of a pattern, one list per axis of the tensor; 1 has no name."""
    parts = re.findall(r"\([^()]*\)|[^\s()]+", side)
    return [[name for name in part.strip("()").split() if name != "1"] for part in parts]


class View:
    """``pattern`` = "axes of the tensor -> batch axes, rows, columns", as in einops."""

    def __init__(self, pattern: str, sizes: tuple[tuple[str, int], ...] | None) -> None:
        left, arrow, right = str(pattern).partition("->")
        self.left, self.right, self.sizes = left.strip(), right.strip(), dict(sizes or ())
        self.source, self.target = _groups(left), _groups(right)
        given = sorted(name for group in self.source for name in group)
        used = sorted(name for group in self.target for name in group)
        if not arrow or given != used or len(set(given)) != len(given) or len(self.target) < 2:
            raise OptionError(
                f"view={pattern!r}: expected an einops pattern with the same axes on both sides "
                'and at least rows and columns on the right, such as "o i h w -> o (i h w)", or '
                f'view="{BATCH}".'
            )
        if unknown := set(self.sizes) - set(given):
            raise OptionError(
                f"sizes names {', '.join(sorted(unknown))}, which view={pattern!r} does not have; "
                f"its axes are {', '.join(given)}."
            )

    def axes(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The length of every named axis, for a tensor of this shape."""
        if len(shape) != len(self.source):
            raise ShapeError(
                f"shape {shape} has {len(shape)} axes and the view {self.left!r} has "
                f"{len(self.source)}. Name one axis for each, such as "
                '"o i h w -> o (i h w)" for a 2-D convolution.'
            )
        return self._lengths(shape, self.source)

    def _lengths(self, shape: tuple[int, ...], groups: list[list[str]]) -> dict[str, int]:
        known = dict(self.sizes)
        for length, group in zip(shape, groups, strict=True):
            missing = [name for name in group if name not in known]
            product = 1
            for name in group:
                product *= known.get(name, 1)
            if len(missing) == 1 and product and length % product == 0:
                known[missing[0]] = length // product
            elif missing or product != length:
                raise ShapeError(
                    f"axis ({' '.join(group) or '1'}) of length {length} does not split by sizes="
                    f"{self.sizes}. Give the sizes of all but one of its parts, dividing {length}."
                )
        return known

    def matrix_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the matrices in a tensor of this shape."""
        axes, lengths = self.axes(shape), []
        for group in self.target:
            lengths.append(1)
            for name in group:
                lengths[-1] *= axes[name]
        return tuple(lengths)

    def tensor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor with matrices of this shape; ``sizes`` tells what it does not."""
        known = self._lengths(shape, self.target)
        return tuple(math.prod([known[name] for name in group]) for group in self.source)

    def read(self, t: Tensor) -> Tensor:
        """The matrices in ``t``."""
        return rearrange(t, f"{self.left} -> {self.right}", **self.axes(tuple(t.shape)))

    def write(self, matrices: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The tensor of shape ``shape`` with these matrices."""
        return rearrange(matrices, f"{self.right} -> {self.left}", **self.axes(shape))


class _Chosen:
    """The axes that ``dim`` names; the others are a batch."""

    def __init__(self, dim: Dim) -> None:
        self.dim = dim

    def axes(self, shape: tuple[int, ...]) -> list[int]:
        """The axes of the vectors in a tensor of this shape, counted from 0."""
        if self.dim is None:
            return list(range(len(shape)))
        dims = self.dim if isinstance(self.dim, tuple) else (self.dim,)
        found = [axis + len(shape) if axis < 0 else axis for axis in dims]
        if len(set(found)) == len(found) and set(found) <= set(range(len(shape))):
            return found
        raise ShapeError(
            f"shape {shape} has {len(shape)} axes; dim={self.dim} must name each of its axes at "
            "most once, and no other. Give another dim=, or None for the whole tensor."
        )


class Axes(_Chosen):
    """The axes that together are one vector."""

    def matrix_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The batch axes, then the length of the vectors."""
        axes = self.axes(shape)
        batch = [length for i, length in enumerate(shape) if i not in axes]
        return (*batch, math.prod([shape[axis] for axis in axes]))

    def read(self, t: Tensor) -> Tensor:
        """The vectors in ``t``, along the last axis."""
        axes = self.axes(tuple(t.shape))
        moved = t.movedim(axes, list(range(-len(axes), 0))) if axes else t.unsqueeze(-1)
        return moved.flatten(-len(axes)) if len(axes) > 1 else moved

    def write(self, vectors: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The tensor of shape ``shape`` with these vectors."""
        axes = self.axes(shape)
        if not axes:
            return vectors.squeeze(-1)
        parts = vectors.unflatten(-1, [shape[axis] for axis in axes])
        return parts.movedim(list(range(-len(axes), 0)), axes)


class Moved(_Chosen):
    """The axes that together are one element of the set, each of them kept."""

    def matrix_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The batch axes, then the chosen ones."""
        axes = self.axes(shape)
        batch = [length for i, length in enumerate(shape) if i not in axes]
        return (*batch, *(shape[axis] for axis in axes))

    def read(self, t: Tensor) -> Tensor:
        """``t`` with the chosen axes last."""
        axes = self.axes(tuple(t.shape))
        return t.movedim(axes, list(range(-len(axes), 0)))

    def write(self, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Undoes ``read``, whatever the lengths of the axes."""
        axes = self.axes(shape)
        return t.movedim(list(range(-len(axes), 0)), axes)


class Folded(_Chosen):
    """Vectors as matrices: the first of their axes, then the others as one.

    So that x may have more slices along that first axis than y has: ``resized``.
    """

    def matrix_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The batch axes, the length of the first axis, the product of the others."""
        axes = self._some(shape)
        batch = [length for i, length in enumerate(shape) if i not in axes]
        return (*batch, shape[axes[0]], math.prod([shape[axis] for axis in axes[1:]]))

    def read(self, t: Tensor) -> Tensor:
        """The vectors in ``t``, along the last two axes."""
        axes = self._some(tuple(t.shape))
        moved = t.movedim(axes, list(range(-len(axes), 0)))
        return moved.flatten(1 - len(axes)) if len(axes) > 1 else moved.unsqueeze(-1)

    def write(self, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The tensor with these vectors; its first axis is as long as in ``t``."""
        axes = self._some(shape)
        parts = t.squeeze(-1)
        if len(axes) > 1:
            parts = t.unflatten(-1, [shape[axis] for axis in axes[1:]])
        return parts.movedim(list(range(-len(axes), 0)), axes)

    def resized(self, shape: tuple[int, ...], copies: int, slices: int) -> tuple[int, ...]:
        """The shape of x: ``copies`` times the first axis and ``slices`` more."""
        axis = self._some(shape)[0]
        return (*shape[:axis], copies * shape[axis] + slices, *shape[axis + 1 :])

    def original(self, shape: tuple[int, ...], copies: int, slices: int) -> tuple[int, ...]:
        """Undoes ``resized``."""
        axis = self._some(shape)[0]
        length, rest = divmod(shape[axis] - slices, copies)
        if rest or length < 0:
            raise ShapeError(
                f"x has shape {shape}, of length {shape[axis]} along axis {axis}; expected "
                f"{slices} more than {copies} times that of y. Take x from right_inverse."
            )
        return (*shape[:axis], length, *shape[axis + 1 :])

    def _some(self, shape: tuple[int, ...]) -> list[int]:
        if axes := self.axes(shape):
            return axes
        raise ShapeError(
            "a single number has no axis along which x could be longer. Give a vector of length 1."
        )
