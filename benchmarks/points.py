"""Where x stands in the benchmark of accuracy, and what is known of each map that it measures."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import truths
from .truths import Exact, Oracle

__all__ = [
    "CONDITIONS",
    "NORMS",
    "PRODUCTS",
    "SQUARE",
    "TALL",
    "Function",
    "Map",
    "Point",
    "Shape",
    "general",
    "halves",
    "hermitian",
    "logits",
    "orthonormal",
    "singular",
    "tangent",
    "triangle",
    "wide",
]

Shape = tuple[int, int]
Function = Callable[[Tensor], Tensor]
NORMS = (1e-6, 1e-3, 0.1, 1.2, 3.0, 30.0)
CONDITIONS = (1.0, 1e2, 1e4, 1e6)
PRODUCTS = {"norm": NORMS, "condition": CONDITIONS[1:], "repeated": (1.0,)}
SQUARE = ((2, 2), (16, 16), (128, 128), (512, 512))
TALL = ((2, 1), (16, 4), (128, 16), (512, 32))


@dataclass(frozen=True)
class Point:
    """Where x stands: a random x of this shape and norm, condition number, or spectrum."""

    shape: Shape
    kind: str  # "norm", "condition", "repeated"
    number: float

    def __str__(self) -> str:
        n, k = self.shape
        at = "repeated" if self.kind == "repeated" else f"{self.kind} {self.number:g}"
        return f"{n} x {k}, {at}"


@dataclass(frozen=True)
class Map:
    """One line of the table.

    Args:
        ours: f as the package computes it.
        others: library -> the same f.
        oracle, exactly: f in double precision, and in mpmath; the oracle says that f has no
            derivative by None in the place of one.
        draw: a random x in double precision at a point, of its shape or, where f takes several
            matrices, these one above the other.
        distance: of y, in double precision, from the set; None where all matrices are in it.
        on_set: what the distance is taken of, where that is more than ``ours`` (margins).
        kinds: how x is chosen: kind -> numbers.
        dtype, shapes: of x.
        condition: by how much more than x, relative to its size, f(x) changes with it; at least 1.
            Errors are divided by it.
    """

    ours: Function
    others: dict[str, Function]
    oracle: Oracle
    draw: Callable[[Point, torch.dtype], Tensor]
    exactly: Exact | None = None
    distance: Callable[[Tensor], float] | None = None
    on_set: Function | None = None
    kinds: dict[str, tuple[float, ...]] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    shapes: tuple[Shape, ...] = SQUARE
    condition: Callable[[Tensor], float] = lambda _: 1.0

    def points(self, quick: bool) -> Iterator[Point]:
        for shape in self.shapes[:2] if quick else self.shapes:
            for kind, numbers in self.kinds.items():
                every = 3 if quick else 1
                yield from (Point(shape, kind, t) for t in numbers[::-1][::every][::-1])


# where x stands -----------------------------------------------------------------------------------


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64


def orthonormal(n: int, k: int, dtype: torch.dtype) -> Tensor:
    return torch.linalg.qr(torch.randn(n, k, dtype=wide(dtype)))[0]


def with_singular_values(shape: Shape, s: Tensor, dtype: torch.dtype) -> Tensor:
    u, v = orthonormal(*shape, dtype), orthonormal(shape[1], shape[1], dtype)
    return (u * s) @ v.mH


def singular(at: Point, dtype: torch.dtype) -> Tensor:
    """From 1 down to 1 / condition; of this norm with a condition number of 10; 1 and 1/30 only."""
    k = at.shape[1]
    if at.kind == "repeated":
        s = torch.where(torch.arange(k) < (k + 1) // 2, 1.0, 1 / 30)
    else:
        lowest = math.log10(at.number) if at.kind == "condition" else 1.0
        s = torch.logspace(0, -lowest, k, dtype=torch.float64)
    return (at.number if at.kind == "norm" else 1.0) * with_singular_values(at.shape, s, dtype)


def tangent(at: Point, dtype: torch.dtype) -> Tensor:
    """|A| = norm; with one pair of eigenvalues +-i for all, and 0 for the rest of a tall one's."""
    n, k = at.shape
    if at.kind == "repeated" and n > k:
        return torch.cat((torch.zeros(k, k, dtype=wide(dtype)), orthonormal(n - k, k, dtype)))
    if at.kind == "repeated":
        turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
        q = orthonormal(n, n, dtype)
        return q @ torch.block_diag(*[turn] * (n // 2)).to(q.dtype) @ q.mH
    x = torch.randn(n, k, dtype=wide(dtype))
    return x * (at.number / torch.linalg.matrix_norm(truths.dense(x), 2))


def hermitian(at: Point, dtype: torch.dtype) -> Tensor:
    n = at.shape[0]
    if at.kind == "repeated":
        q = orthonormal(n, n, dtype)
        return (q * torch.where(torch.arange(n) < n // 2, 1.0, -1.0)) @ q.mH
    x = torch.randn(n, n, dtype=wide(dtype))
    return x * (at.number / torch.linalg.matrix_norm(0.5 * (x + x.mH), 2))


def general(at: Point, dtype: torch.dtype) -> Tensor:
    """Repeated: one eigenvalue with one eigenvector, as far from normal as the norm 1 allows."""
    n = at.shape[0]
    x = torch.randn(n, n, dtype=wide(dtype))
    if at.kind == "repeated":
        q = orthonormal(n, n, dtype)
        x = q @ (x.triu(1) / x.triu(1).norm() + 0.5 * torch.eye(n)) @ q.mH
    return x * (at.number / torch.linalg.matrix_norm(x, 2))


def triangle(at: Point, dtype: torch.dtype) -> Tensor:
    """Entries of that size; a diagonal that gives L L^T the condition number; x = 0."""
    n = at.shape[0]
    x = torch.randn(n, n, dtype=wide(dtype))
    if at.kind != "condition":
        return at.number * x / x.abs().max() if at.kind == "norm" else torch.zeros_like(x)
    l = torch.logspace(0, -0.5 * math.log10(at.number), n, dtype=torch.float64)
    return 0.1 / n * x.tril(-1) * l + torch.diag(torch.log(torch.expm1(l)))


def halves(at: Point, dtype: torch.dtype) -> Tensor:
    """A triangle and its condition number below; of size 1, where x would be 0, above."""
    x = triangle(at, dtype)
    return x + torch.randn_like(x).triu(1) / at.shape[0] ** 0.5 if at.kind == "condition" else x


def logits(at: Point, dtype: torch.dtype) -> Tensor:
    x = torch.randn(at.shape, dtype=wide(dtype))
    return at.number * x / x.abs().max()
