"""Kernels of right inverses in the benchmark of accuracy, in double precision, beside SciPy's.

They have no derivative. Double precision is no oracle of double precision: equations are refined by
residuals with 64 bits, and logarithms are taken of matrices that are exact and known in parts.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from constrainedparams.numerics.logarithm import logarithm
from constrainedparams.numerics.lyapunov import lyapunov, stein

from .points import CONDITIONS, PRODUCTS, SQUARE, Function, Map, Point, Shape, general, wide

__all__ = ["MAPS"]

Array = Any  # of numpy
_STEP = 1e-9


def _condition(f: Function, count: int) -> Callable[[Tensor], float]:
    """Of f as another computes it, by a difference in a random direction, for each matrix in x."""

    def condition(x: Tensor) -> float:
        directions = [(t, torch.randn_like(t)) for t in x.chunk(count)]
        step = torch.cat([_STEP * t.norm() / e.norm() * e for t, e in directions])
        up, y, down = f(x + step), f(x), f(x - step)
        return max(1.0, float((up - down).norm() / (2 * _STEP * y.norm())))

    return condition


# equations: x is A above Q ------------------------------------------------------------------------


def _stein(a: Array, q: Array) -> Array:
    """P - A^T P A = Q."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a condition number, which is what is asked for
        return scipy.linalg.solve_discrete_lyapunov(a.T, q)


def _lyapunov(a: Array, q: Array) -> Array:
    """A P + P A^T = -Q."""
    return scipy.linalg.solve_continuous_lyapunov(a, -q)


def _stein_left(a: Array, p: Array) -> Array:
    return p - a.T @ p @ a


def _lyapunov_left(a: Array, p: Array) -> Array:
    return -(a @ p + p @ a.T)


Solve = Callable[[Array, Array], Array]


def _by_scipy(solve: Solve, left: Solve | None = None) -> Function:
    """With ``left``, the side of the equation that has P: refined by residuals with 64 bits."""

    def f(x: Tensor) -> Tensor:
        a, q = (t.numpy() for t in x.chunk(2))
        p = solve(a, q)
        for _ in range(2 if left is not None else 0):
            assert left is not None
            off = q - left(a.astype(np.longdouble), p)
            p = p.astype(np.longdouble) + solve(a, off.astype(np.float64))
        return torch.from_numpy(p.astype(np.float64))

    return f


def _exactly(left: Solve) -> Callable[[Any], Any]:
    """By the system of n^2 equations for the entries of P, row after row."""

    def f(x: Any) -> Any:
        n = x.cols
        a, q = x[:n, :], x[n:, :]
        system = mpmath.zeros(n * n)
        for i in range(n * n):
            unit = mpmath.zeros(n)
            unit[i // n, i % n] = 1
            system[:, i] = mpmath.matrix(list(left(a, unit)))
        found = mpmath.lu_solve(system, mpmath.matrix(list(q)))
        return mpmath.matrix([[found[i * n + j] for j in range(n)] for i in range(n)])

    return f


def _with_right_side(a: Tensor) -> Tensor:
    q = torch.randn_like(a)
    return torch.cat((a, q + q.mT))


def _in_circle(at: Point, dtype: torch.dtype) -> Tensor:
    """A spectral radius of 1 - 1/condition; of this norm; one eigenvalue with one eigenvector."""
    a = general(at, dtype)
    if at.kind == "condition":
        radius = float(abs(scipy.linalg.eigvals(a.numpy())).max())
        a = a * ((1 - 1 / at.number) / radius)
    return _with_right_side(a)


def _left_of_axis(at: Point, dtype: torch.dtype) -> Tensor:
    """A largest real part of -|A|/condition; of about this norm, with -|A|/10; as above."""
    a = general(at, dtype)
    if at.kind == "repeated":
        return _with_right_side(-a)
    gap = torch.linalg.matrix_norm(a, 2) / (at.number if at.kind == "condition" else 10.0)
    real = float(scipy.linalg.eigvals(a.numpy()).real.max())
    return _with_right_side(a - (real + gap) * torch.eye(len(a), dtype=a.dtype))


def _equation(
    ours: Callable[[Tensor, Tensor], Tensor],
    solve: Solve,
    left: Solve,
    draw: Callable[[Point, torch.dtype], Tensor],
    norms: tuple[float, ...],
) -> Map:
    peer, refined = _by_scipy(solve), _by_scipy(solve, left)
    return Map(
        lambda x: ours(*x.chunk(2)),
        {"scipy": peer},
        lambda x: (refined(x), None),
        draw,
        _exactly(left),
        kinds={"condition": CONDITIONS[1:], "norm": norms, "repeated": (1.0,)},
        dtype=torch.float64,
        condition=_condition(peer, 2),
    )


# the logarithm of Y = H x H / n, H of Hadamard, x = [[D, M], [0, D]], D and M diagonal ------------


def _turned(x: Tensor) -> Tensor:
    """H x H / n, without rounding where the entries of x have few bits; undoes itself."""
    h = torch.from_numpy(scipy.linalg.hadamard(len(x))).to(x.dtype)
    return h @ x @ h / len(x)


def _jordan(at: Point, dtype: torch.dtype) -> Tensor:
    """Eigenvalues d with one eigenvector each, to whole powers of 2; of I + M with |M| = norm.

    Complex d turn by up to 127 degrees.
    """
    half = at.shape[0] // 2
    turns = [1.0] if not dtype.is_complex else [-3 + 4j, 1.0, 4j, 3 - 4j]
    d = torch.tensor(turns, dtype=wide(dtype)).repeat(half)[:half]
    m = torch.randint(8, 17, (half,)) / 16 * (2 * torch.randint(2, (half,)) - 1)
    if at.kind == "norm":
        d, m = torch.ones_like(d), m * 2.0 ** round(math.log2(at.number))
    elif at.kind == "repeated":
        d, m = torch.full_like(d, turns[0]), m * turns[0]
    else:
        down = torch.linspace(math.log2(at.number), 0, half).round()
        d = d * 2.0**-down
        m = m * d
    x = torch.diag(torch.cat((d, d)))
    x[:half, half:] = torch.diag(m.to(d.dtype))
    assert torch.equal(_turned(_turned(x)), x)
    return x


def _in_parts(x: Tensor) -> tuple[Tensor, None]:
    """log [[d, m], [0, d]] = [[log d, m/d], [0, log d]]."""
    half = len(x) // 2
    d, m = x.diagonal()[:half], x[:half, half:].diagonal()
    y = torch.diag(torch.log(d).repeat(2))
    y[:half, half:] = torch.diag(m / d)
    return y, None


def _logm(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its doubts
        found = torch.from_numpy(scipy.linalg.logm(_turned(x).numpy()))
    return _turned(found if x.is_complex() else found.real)


def _logarithm(dtype: torch.dtype, shapes: tuple[Shape, ...]) -> Map:
    return Map(
        lambda x: _turned(logarithm(_turned(x))),
        {"scipy": _logm},
        _in_parts,
        _jordan,
        None if dtype.is_complex else mpmath.logm,  # which leaves the principal branch there
        kinds=PRODUCTS,
        dtype=dtype,
        shapes=shapes,
        condition=_condition(_logm, 1),
    )


MAPS: dict[str, Map] = {
    "P - A^T P A = Q": _equation(stein, _stein, _stein_left, _in_circle, (1e-6, 0.9)),
    "A P + P A^T = -Q": _equation(lyapunov, _lyapunov, _lyapunov_left, _left_of_axis, (1e-6, 30.0)),
    "logarithm": _logarithm(torch.float64, SQUARE),
    "logarithm, complex": _logarithm(torch.complex128, SQUARE),
}
