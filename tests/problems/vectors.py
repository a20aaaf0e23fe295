"""Vectors: mixtures, sparse shares, balls, spheres, planes."""

import math

import numpy as np
import scipy.optimize
import scipy.stats
import torch
from sklearn.datasets import load_diabetes

from constrainedparams import (
    AffineSubspace,
    Ball,
    MagnitudeDirection,
    Simplex,
    Sphere,
    SumToZero,
)

from .problem import Problem

F64 = torch.float64


def mixture_weights() -> Problem:
    """The fixed point of expectation maximisation, which climbs to the only maximum."""
    rng = np.random.default_rng(0)
    means = np.array([-2.0, 0.0, 3.0])
    z = rng.normal(means[rng.choice(3, 300, p=[0.2, 0.5, 0.3])])
    density = scipy.stats.norm.pdf(z[:, None], means)
    w = np.full(3, 1 / 3)
    for _ in range(2000):
        share = w * density
        w = (share / share.sum(1, keepdims=True)).mean(0)
    D = torch.from_numpy(density)
    start = torch.tensor([0.8, 0.1, 0.1], dtype=F64)
    return Problem(Simplex(), start, lambda y: -(D @ y).log().mean(), w)


def sparse_simplex_regression() -> Problem:
    """Shares that sum to 1, most of them exactly 0; SciPy's SLSQP is asked too."""
    rng = np.random.default_rng(1)
    a = rng.standard_normal((40, 8))
    b = a @ np.array([0.6, 0.4, 0, 0, 0, 0, 0, 0]) + 0.3 * rng.standard_normal(40)
    A, B = torch.from_numpy(a), torch.from_numpy(b)
    answer = scipy.optimize.minimize(
        lambda y: np.square(a @ y - b).mean(),
        np.full(8, 1 / 8),
        jac=lambda y: 2 * a.T @ (a @ y - b) / 40,
        bounds=[(0, None)] * 8,
        constraints={"type": "eq", "fun": lambda y: y.sum() - 1, "jac": lambda y: np.ones(8)},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return Problem(
        Simplex(closed=True),
        torch.full((8,), 1 / 8, dtype=F64),
        lambda y: (A @ y - B).square().mean(),
        answer.x,
        atol=1e-5,
    )


def trust_region_subproblem() -> Problem:
    """min y^T H y / 2 + g^T y in a ball, H indefinite: (H + m I) y = -g with |y| = r (secular)."""
    rng = np.random.default_rng(2)
    h = rng.standard_normal((6, 6))
    h, g = (h + h.T) / 2, rng.standard_normal(6)
    low = np.linalg.eigvalsh(h)[0]

    def at(m: float) -> np.ndarray:
        return -np.linalg.solve(h + m * np.eye(6), g)

    m = scipy.optimize.brentq(lambda m: np.linalg.norm(at(m)) - 1, max(-low, 0) + 1e-6, 100)
    H, G = torch.from_numpy(h), torch.from_numpy(g)
    return Problem(
        Sphere(),
        torch.ones(6, dtype=F64),
        lambda y: 0.5 * y @ (H @ y) + G @ y,
        at(m),
        atol=1e-5,
    )


def lasso() -> Problem:
    """Least squares in an l1 ball, some coefficients exactly 0; SciPy's SLSQP on y = p - q."""
    data = load_diabetes()
    a, b = data.data * 20, (data.target - data.target.mean()) / data.target.std()
    both = np.hstack((a, -a))
    split = scipy.optimize.minimize(
        lambda p: np.square(both @ p - b).mean(),
        np.full(20, 0.01),
        jac=lambda p: 2 * both.T @ (both @ p - b) / len(b),
        bounds=[(0, None)] * 20,
        constraints={"type": "ineq", "fun": lambda p: 0.6 - p.sum(), "jac": lambda p: -np.ones(20)},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    ).x
    A, B = torch.from_numpy(a), torch.from_numpy(b)
    return Problem(
        Ball(0.6, p=1, closed=True),
        torch.full((10,), 0.02, dtype=F64),
        lambda y: (A @ y - B).square().mean(),
        split[:10] - split[10:],
        atol=1e-4,
        steps=60,
    )


def electrons_on_a_sphere() -> Problem:
    """Thomson's problem: the energy of 12 electrons is that of the icosahedron."""
    phi = (1 + math.sqrt(5)) / 2
    corners = [np.roll((0.0, s, t * phi), k) for k in range(3) for s in (1, -1) for t in (1, -1)]
    p = np.array(corners) / math.sqrt(1 + phi * phi)
    pairs = np.triu_indices(12, 1)
    energy = (1 / np.linalg.norm(p[pairs[0]] - p[pairs[1]], axis=1)).sum()

    def coulomb(y: torch.Tensor) -> torch.Tensor:
        return (1 / (y[pairs[0]] - y[pairs[1]]).norm(dim=-1)).sum()

    return Problem(
        Sphere(), torch.randn(12, 3, dtype=F64), lambda y: coulomb(y) / 12, energy, coulomb
    )


def quadratic_with_equations() -> Problem:
    """min y^T H y / 2 + g^T y with A y = b: the linear system of Karush, Kuhn and Tucker."""
    rng = np.random.default_rng(3)
    h, a = rng.standard_normal((7, 7)), rng.standard_normal((3, 7))
    h, g, b = h @ h.T + np.eye(7), rng.standard_normal(7), rng.standard_normal(3)
    system = np.block([[h, a.T], [a, np.zeros((3, 3))]])
    answer = np.linalg.solve(system, np.concatenate((-g, b)))[:7]
    H, G = torch.from_numpy(h), torch.from_numpy(g)
    return Problem(
        AffineSubspace(torch.from_numpy(a), torch.from_numpy(b)),
        torch.zeros(7, dtype=F64),
        lambda y: 0.5 * y @ (H @ y) + G @ y,
        answer,
    )


def effects_of_groups() -> Problem:
    """One-way effects with sum 0, groups of equal size: group means minus the mean of all."""
    rng = np.random.default_rng(4)
    data = rng.standard_normal((5, 10)) + np.arange(5)[:, None]
    D = torch.from_numpy(data - data.mean())
    return Problem(
        SumToZero(),
        torch.zeros(5, dtype=F64),
        lambda y: (D - y[:, None]).square().mean(),
        data.mean(1) - data.mean(),
    )


def weight_normalised_regression() -> Problem:
    """Length and direction apart reach the same least squares."""
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((30, 5)), rng.standard_normal(30)
    A, B = torch.from_numpy(a), torch.from_numpy(b)
    return Problem(
        MagnitudeDirection(),
        torch.ones(5, dtype=F64),
        lambda y: (A @ y - B).square().mean(),
        np.linalg.lstsq(a, b)[0],
    )


PROBLEMS = {
    f.__name__: f
    for f in (
        mixture_weights,
        sparse_simplex_regression,
        trust_region_subproblem,
        lasso,
        electrons_on_a_sphere,
        quadratic_with_equations,
        effects_of_groups,
        weight_normalised_regression,
    )
}
