"""What the benchmark of accuracy measures: maps, where x stands, and what others offer."""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from constrainedparams import DoublyStochastic, Orthogonal, PositiveDefinite, SpectralBall
from constrainedparams.numerics.contraction import contraction
from constrainedparams.numerics.definite import factor, gram
from constrainedparams.numerics.exponential import expm
from constrainedparams.numerics.hermitian_exponential import expm_hermitian

from . import truths
from .truths import Exact, Oracle

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own use of deprecated parts of torch
    import geotorch

__all__ = ["MAPS", "Map", "Point"]

Shape = tuple[int, int]
Function = Callable[[Tensor], Tensor]
NORMS = (1e-6, 1e-3, 0.1, 1.2, 3.0, 30.0)
CONDITIONS = (1.0, 1e2, 1e4, 1e6)
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
        oracle, exactly: f in double precision, and in mpmath.
        draw: a random x in double precision at a point.
        distance: of y, in double precision, from the set; None where all matrices are in it.
        on_set: what the distance is taken of, where that is more than ``ours`` (margins).
        kinds: how x is chosen: kind -> numbers.
        dtype, shapes: of x.
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

    def points(self, quick: bool) -> Iterator[Point]:
        for shape in self.shapes[:2] if quick else self.shapes:
            for kind, numbers in self.kinds.items():
                every = 3 if quick else 1
                yield from (Point(shape, kind, t) for t in numbers[::-1][::every][::-1])


# where x stands -----------------------------------------------------------------------------------


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64


def _orthonormal(n: int, k: int, dtype: torch.dtype) -> Tensor:
    return torch.linalg.qr(torch.randn(n, k, dtype=wide(dtype)))[0]


def _with_singular_values(shape: Shape, s: Tensor, dtype: torch.dtype) -> Tensor:
    u, v = _orthonormal(*shape, dtype), _orthonormal(shape[1], shape[1], dtype)
    return (u * s) @ v.mH


def _singular(at: Point, dtype: torch.dtype) -> Tensor:
    """From 1 down to 1 / condition; of this norm with a condition number of 10; 1 and 1/30 only."""
    k = at.shape[1]
    if at.kind == "repeated":
        s = torch.where(torch.arange(k) < (k + 1) // 2, 1.0, 1 / 30)
    else:
        lowest = math.log10(at.number) if at.kind == "condition" else 1.0
        s = torch.logspace(0, -lowest, k, dtype=torch.float64)
    return (at.number if at.kind == "norm" else 1.0) * _with_singular_values(at.shape, s, dtype)


def _tangent(at: Point, dtype: torch.dtype) -> Tensor:
    """|A| = norm; with one pair of eigenvalues +-i for all, and 0 for the rest of a tall one's."""
    n, k = at.shape
    if at.kind == "repeated" and n > k:
        return torch.cat((torch.zeros(k, k, dtype=wide(dtype)), _orthonormal(n - k, k, dtype)))
    if at.kind == "repeated":
        turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
        q = _orthonormal(n, n, dtype)
        return q @ torch.block_diag(*[turn] * (n // 2)).to(q.dtype) @ q.mH
    x = torch.randn(n, k, dtype=wide(dtype))
    return x * (at.number / torch.linalg.matrix_norm(truths.dense(x), 2))


def _hermitian(at: Point, dtype: torch.dtype) -> Tensor:
    n = at.shape[0]
    if at.kind == "repeated":
        q = _orthonormal(n, n, dtype)
        return (q * torch.where(torch.arange(n) < n // 2, 1.0, -1.0)) @ q.mH
    x = torch.randn(n, n, dtype=wide(dtype))
    return x * (at.number / torch.linalg.matrix_norm(0.5 * (x + x.mH), 2))


def _general(at: Point, dtype: torch.dtype) -> Tensor:
    """Repeated: one eigenvalue with one eigenvector, as far from normal as the norm 1 allows."""
    n = at.shape[0]
    x = torch.randn(n, n, dtype=wide(dtype))
    if at.kind == "repeated":
        q = _orthonormal(n, n, dtype)
        x = q @ (x.triu(1) / x.triu(1).norm() + 0.5 * torch.eye(n)) @ q.mH
    return x * (at.number / torch.linalg.matrix_norm(x, 2))


def _triangle(at: Point, dtype: torch.dtype) -> Tensor:
    """Entries of that size; a diagonal that gives L L^T the condition number; x = 0."""
    n = at.shape[0]
    x = torch.randn(n, n, dtype=wide(dtype))
    if at.kind != "condition":
        return at.number * x / x.abs().max() if at.kind == "norm" else torch.zeros_like(x)
    l = torch.logspace(0, -0.5 * math.log10(at.number), n, dtype=torch.float64)
    return 0.1 / n * x.tril(-1) * l + torch.diag(torch.log(torch.expm1(l)))


def _logits(at: Point, dtype: torch.dtype) -> Tensor:
    x = torch.randn(at.shape, dtype=wide(dtype))
    return at.number * x / x.abs().max()


# how far y is from the set ------------------------------------------------------------------------


def _defect(y: Tensor) -> float:
    return float(torch.linalg.norm(y.mH @ y - torch.eye(y.shape[1])))


def _indefinite(y: Tensor) -> float:
    """Asymmetry, and how far the smallest eigenvalue is below 0, both over the norm."""
    size = torch.linalg.norm(y)
    below = (-torch.linalg.eigvalsh(0.5 * (y + y.mH))[0]).clamp_min(0)
    return float((torch.linalg.norm(y - y.mH) + below) / size)


def _outside(y: Tensor) -> float:
    return max(0.0, float(torch.linalg.matrix_norm(y, 2)) - 1)


def _sums(y: Tensor) -> float:
    """The largest error of a sum."""
    return max(float((y.sum(0) - 1).abs().max()), float((y.sum(1) - 1).abs().max()))


# what others offer --------------------------------------------------------------------------------


def _torch(name: str) -> Function:
    def f(x: Tensor) -> Tensor:
        layer = nn.Linear(x.shape[1], x.shape[0], bias=False)
        parametrizations.orthogonal(layer, "weight", name, use_trivialization=False)
        y: Tensor = layer.parametrizations.weight[0](x)  # type: ignore[union-attr,operator]
        return y

    return f


def _geotorch(triv: str) -> Function:
    """With the identity for its base point."""

    def f(x: Tensor) -> Tensor:
        square = x.shape[0] == x.shape[1]
        made = (geotorch.SO if square else geotorch.Stiefel)(tuple(x.shape), triv=triv)
        made.base.copy_(torch.eye(x.shape[0]))
        y: Tensor = made(x)
        return y

    return f


def _exp_skew(x: Tensor) -> Tensor:
    """torch's orthogonal counts an imaginary diagonal twice."""
    a = x.tril(-1)
    return torch.matrix_exp(a - a.mH + torch.diag(1j * x.diagonal().imag))


def _polar(x: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return u @ vh


def _ball(x: Tensor) -> Tensor:
    l = torch.linalg.cholesky(torch.eye(x.shape[1]) + x.mT @ x)
    return torch.linalg.solve_triangular(l, x.mT, upper=False).mT


def _definite(x: Tensor) -> Tensor:
    l = x.tril(-1) + torch.diag(F.softplus(x.diagonal()))
    return l @ l.mT


def _sinkhorn(x: Tensor) -> Tensor:
    """A hundred iterations on logarithms, as one writes them down."""
    for _ in range(100):
        x = x - torch.logsumexp(x, 1, keepdim=True)
        x = x - torch.logsumexp(x, 0, keepdim=True)
    return x.exp()


# the maps -----------------------------------------------------------------------------------------

_ANGLES = {"norm": NORMS, "repeated": (1.0,)}
_SINGULAR = {"condition": CONDITIONS, "norm": (1e-6, 30.0), "repeated": (1.0,)}


def _orthogonal(name: str, shapes: tuple[Shape, ...]) -> Map:
    exp = name == "exp"
    return Map(
        Orthogonal(name),  # type: ignore[arg-type]
        {
            "torch": _torch("matrix_exp" if exp else name),
            "geotorch": _geotorch("expm" if exp else name),
        },
        truths.exp_skew if exp else truths.cayley,
        _tangent,
        truths.exp_skew_exactly if exp else truths.cayley_exactly,
        _defect,
        kinds=_ANGLES,
        shapes=shapes,
    )


def _nearest(shapes: tuple[Shape, ...]) -> Map:
    return Map(
        Orthogonal("polar"),
        {"torch": _polar},
        truths.polar,
        _singular,
        truths.polar_exactly,
        _defect,
        kinds=_SINGULAR,
        shapes=shapes,
    )


def _exp_definite(dtype: torch.dtype, shapes: tuple[Shape, ...]) -> Map:
    return Map(
        expm_hermitian,
        {"torch": lambda x: torch.matrix_exp(0.5 * (x + x.mH))},
        truths.exp_hermitian,
        _hermitian,
        None if dtype.is_complex else truths.exp_hermitian_exactly,
        _indefinite,
        PositiveDefinite(map="exp"),
        _ANGLES,
        dtype,
        shapes,
    )


MAPS: dict[str, Map] = {
    "exp of skew, n x n": _orthogonal("exp", SQUARE),
    "exp of skew, n x k": _orthogonal("exp", TALL),
    "exp of skew-Hermitian, complex": Map(
        Orthogonal(),
        {"torch": _exp_skew},
        truths.exp_skew,
        _tangent,
        distance=_defect,
        kinds=_ANGLES,
        dtype=torch.complex64,
        shapes=SQUARE[:3],
    ),
    "Cayley, n x n": _orthogonal("cayley", SQUARE),
    "Cayley, n x k": _orthogonal("cayley", TALL),
    "polar, n x n": _nearest(SQUARE),
    "polar, n x k": _nearest(TALL),
    "exp of symmetric": _exp_definite(torch.float32, SQUARE),
    "exp of Hermitian, complex": _exp_definite(torch.complex64, SQUARE[:3]),
    "exp of any matrix": Map(
        expm,
        {"torch": torch.matrix_exp},
        truths.exp_general,
        _general,
        truths.mpmath.expm,
        kinds=_ANGLES,
    ),
    "spectral ball": Map(
        lambda x: contraction(x)[0],
        {"torch": _ball},
        truths.ball,
        _singular,
        truths.ball_exactly,
        _outside,
        SpectralBall(),
        {"norm": NORMS, "condition": CONDITIONS[1:], "repeated": (1.0,)},
    ),
    "positive definite, L L^T": Map(
        lambda x: gram(factor(x)),
        {"torch": _definite},
        truths.definite,
        _triangle,
        truths.definite_exactly,
        _indefinite,
        PositiveDefinite(),
        {"norm": NORMS, "condition": CONDITIONS[1:], "repeated": (1.0,)},
    ),
    "doubly stochastic": Map(
        DoublyStochastic(),
        {"torch": _sinkhorn},
        truths.scaled,
        _logits,
        truths.scaled_exactly,
        _sums,
        kinds={"norm": (*NORMS[:-1], 10.0)},
    ),
}
