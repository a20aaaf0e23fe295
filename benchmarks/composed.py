"""An orthogonal matrix times another one in the benchmark of accuracy: exp(S) k(x).

Oracles have S by the eigenvalues of :mod:`truths`. Beside each map stands its formula in torch.
"""

from collections.abc import Callable
from typing import Any

import mpmath
import torch
from torch import Tensor
from torch.nn import functional as F

from constrainedparams import BoundedSingularValues, Invertible, Symplectic
from constrainedparams.numerics.contraction import contraction
from constrainedparams.numerics.definite import factor, gram
from constrainedparams.numerics.orthogonal import exponential_from

from . import truths
from .points import NORMS, PRODUCTS, Map, Point, general, halves
from .truths import Oracle, Pull

__all__ = ["MAPS"]

LOW, HIGH = 0.5, 2.0  # bounds of singular values


# times a function of a triangle ------------------------------------------------------------------


def _above(x: Tensor) -> Tensor:
    return x.triu(1) + torch.diag(F.softplus(x.diagonal()))


def _above_exactly(x: Any) -> Any:
    u = x.copy()
    for i in range(x.rows):
        u[i, i] = mpmath.log(1 + mpmath.exp(x[i, i]))
        for j in range(i):
            u[i, j] = 0
    return u


def _exp(x: Tensor) -> Tensor:
    a = x.tril(-1)
    return torch.matrix_exp(a - a.mT)


def _times(middle: Callable[[Tensor], tuple[Tensor, Pull]]) -> Oracle:
    """exp(S) k(U), S of the lower triangle of x and U of the upper one; k with its pull back."""

    def oracle(x: Tensor) -> tuple[Tensor, Pull]:
        d = x.diagonal()
        q, turn = truths.exp_skew(x)
        k, back = middle(x.triu(1) + torch.diag(torch.logaddexp(d, torch.zeros_like(d))))

        def pull(g: Tensor) -> Tensor:
            gu = back(q.mT @ g)
            return turn(g @ k.mT) + gu.triu(1) + torch.diag(gu.diagonal() * torch.sigmoid(d))

        return q @ k, pull

    return oracle


def _clamped(u: Tensor) -> tuple[Tensor, Pull]:
    """a I + (b - a) P (I + P)^-1, P = U^T U: the derivative of the last is M dP M, M = (I + P)^-1.

    By the singular values of U, for which it matters that I - M would lose digits.
    """
    _, s, vh = torch.linalg.svd(u)
    share, m = (vh.mH * (s**2 / (1 + s**2))) @ vh, (vh.mH / (1 + s**2)) @ vh

    def pull(g: Tensor) -> Tensor:
        inner = (HIGH - LOW) * m @ g @ m
        return u @ (inner + inner.mT)

    return LOW * torch.eye(len(u), dtype=u.dtype) + (HIGH - LOW) * share, pull


def _between(x: Tensor) -> Tensor:
    """As BoundedSingularValues, without the margin of the set."""
    c = gram(contraction(factor(x.mT))[0])
    q = exponential_from(None, x)
    return LOW * q + (HIGH - LOW) * (q @ c)


def _between_by_torch(x: Tensor) -> Tensor:
    u, one = _above(x), torch.eye(len(x), dtype=x.dtype)
    p = u.mT @ u
    return _exp(x) @ (LOW * one + (HIGH - LOW) * torch.linalg.solve(one + p, p))


def _between_exactly(x: Any) -> Any:
    u, one = _above_exactly(x), mpmath.eye(x.rows)
    p = u.T * u
    return truths.exp_skew_exactly(x) * (LOW * one + (HIGH - LOW) * p * mpmath.inverse(one + p))


def _out_of_bounds(y: Tensor) -> float:
    s = torch.linalg.svdvals(y)
    return max(0.0, LOW - float(s[-1]), float(s[0]) - HIGH) / HIGH


def _without_positive_determinant(y: Tensor) -> float:
    """How far it is to a positive determinant, over the norm."""
    if float(torch.linalg.slogdet(y)[0]) > 0:
        return 0.0
    s = torch.linalg.svdvals(y)
    return float(s[-1] / s[0])


def _turned_halves(at: Point, dtype: torch.dtype) -> Tensor:
    return halves(at, dtype).mT.contiguous()


# symplectic matrices ------------------------------------------------------------------------------


def _with_j(x: Tensor) -> Tensor:
    """J^T x J."""
    a, b, c, d = (half for row in x.chunk(2) for half in row.chunk(2, 1))
    return torch.cat((torch.cat((d, -c), 1), torch.cat((-b, a), 1)))


def _skew_part(x: Tensor) -> Tensor:
    """The skew part of what commutes with J: an orthogonal projection, as the next one."""
    c = x + _with_j(x)
    return 0.25 * (c - c.mT)


def _symmetric_part(x: Tensor) -> Tensor:
    c = x - _with_j(x)
    return 0.25 * (c + c.mT)


def _symplectic(x: Tensor) -> tuple[Tensor, Pull]:
    """exp(K) f(S), f(e) = e + r, r = (1 + e^2)^1/2; divided differences 1 + (e + e')/(r + r')."""
    q, turn = truths.exp_skew(_skew_part(x))
    e, v = torch.linalg.eigh(_symmetric_part(x))
    root = (1 + e**2).sqrt()
    p = (v * (e + root)) @ v.mT
    slopes = 1 + (e[:, None] + e) / (root[:, None] + root)

    def pull(g: Tensor) -> Tensor:
        gs = v @ (slopes * (v.mT @ q.mT @ g @ v)) @ v.mT
        return _skew_part(turn(g @ p.mT)) + _symmetric_part(gs)

    return q @ p, pull


def _symplectic_by_torch(x: Tensor) -> Tensor:
    e, v = torch.linalg.eigh(_symmetric_part(x))
    return torch.matrix_exp(_skew_part(x)) @ (v * (e + (1 + e**2).sqrt())) @ v.mT


def _symplectic_exactly(x: Any) -> Any:
    n, half = x.rows, x.rows // 2
    j = mpmath.zeros(n)
    for i in range(half):
        j[i, half + i], j[half + i, i] = 1, -1
    c, a = x + j.T * x * j, x - j.T * x * j
    e, q = mpmath.eigsy((a + a.T) / 4)
    roots = mpmath.diag([t + mpmath.sqrt(1 + t * t) for t in e])
    return mpmath.expm((c - c.T) / 4) * q * roots * q.T


def _canonical(at: Point, dtype: torch.dtype) -> Tensor:
    """Repeated: K = J / 2 and S = diag(1, ..., -1, ...)."""
    if at.kind != "repeated":
        return general(at, dtype)
    one = torch.eye(at.shape[0] // 2, dtype=torch.float64)
    return torch.cat((torch.cat((one, 0.5 * one), 1), torch.cat((-0.5 * one, -one), 1)))


def _form_changed(y: Tensor) -> float:
    """|y^T J y - J| over |y|^2."""
    n = len(y)
    j = torch.cat((torch.eye(n)[n // 2 :], -torch.eye(n)[: n // 2])).to(y.dtype)
    return float(torch.linalg.norm(y.mT @ j @ y - j) / torch.linalg.norm(y) ** 2)


# the maps -----------------------------------------------------------------------------------------


MAPS: dict[str, Map] = {
    "invertible, exp(S) R": Map(
        Invertible(),
        {"torch": lambda x: _exp(x) @ _above(x)},
        _times(lambda u: (u, lambda g: g)),
        _turned_halves,
        lambda x: truths.exp_skew_exactly(x) * _above_exactly(x),
        _without_positive_determinant,
        kinds=PRODUCTS,
    ),
    "singular values in (1/2, 2)": Map(
        _between,
        {"torch": _between_by_torch},
        _times(_clamped),
        _turned_halves,
        _between_exactly,
        _out_of_bounds,
        BoundedSingularValues(LOW, HIGH),
        PRODUCTS,
    ),
    "symplectic": Map(
        Symplectic(),
        {"torch": _symplectic_by_torch},
        _symplectic,
        _canonical,
        _symplectic_exactly,
        _form_changed,
        kinds={"norm": NORMS, "repeated": (1.0,)},
    ),
}
