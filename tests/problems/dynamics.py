"""Stable systems, Markov chains, transport, hyperbolic space."""

import networkx as nx
import numpy as np
import ot
import scipy.linalg
import statsmodels.datasets
import torch
from statsmodels.tsa.api import VAR

from constrainedparams import (
    DoublyStochastic,
    Hurwitz,
    Lorentz,
    PoincareBall,
    RateMatrix,
    Schur,
    Symplectic,
)

from .problem import Problem

F64 = torch.float64


def stable_linear_system() -> Problem:
    """Growth of three series of the US economy: the least squares of statsmodels is stable."""
    table = statsmodels.datasets.macrodata.load_pandas().data
    series = np.log(table[["realgdp", "realcons", "realinv"]].to_numpy())
    growth = np.diff(series, axis=0)
    growth = (growth - growth.mean(0)) / growth.std(0)
    fit = VAR(growth).fit(1, trend="n")
    before, after = torch.from_numpy(growth[:-1]), torch.from_numpy(growth[1:])
    return Problem(
        Schur(),
        torch.zeros(3, 3, dtype=F64),
        lambda y: (after - before @ y.mT).square().mean(),
        fit.coefs[0],
        atol=1e-5,
        steps=60,
    )


def continuous_dynamics() -> Problem:
    """The generator of a damped oscillator, from one step of time: SciPy's logarithm."""
    a = np.array([[-0.1, 1.0, 0.0], [-1.0, -0.2, 0.3], [0.0, 0.1, -0.5]])
    step = torch.from_numpy(scipy.linalg.expm(0.5 * a))
    return Problem(
        Hurwitz(),
        -torch.eye(3, dtype=F64),
        lambda y: (torch.linalg.matrix_exp(0.5 * y) - step).square().sum(),
        scipy.linalg.logm(step.numpy()) / 0.5,
        atol=1e-4,
        steps=60,
    )


def markov_generator() -> Problem:
    """Rates of a chain from its transition probabilities."""
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.1, 1.0, (4, 4))
    np.fill_diagonal(rates, 0)
    rates -= np.diag(rates.sum(1))
    step = torch.from_numpy(scipy.linalg.expm(0.3 * rates))
    start = torch.full((4, 4), 0.3, dtype=F64) - 1.2 * torch.eye(4, dtype=F64)
    return Problem(
        RateMatrix(),
        start,
        lambda y: -(step * torch.linalg.matrix_exp(0.3 * y).log()).sum(),
        scipy.linalg.logm(step.numpy()) / 0.3,
        atol=1e-4,
        steps=60,
    )


def transport_plan() -> Problem:
    """Entropic transport between two histograms, as POT computes it."""
    rng = np.random.default_rng(1)
    a, b = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(5))
    cost = np.square(np.linspace(0, 1, 6)[:, None] - np.linspace(0, 1, 5))
    plan = ot.sinkhorn(a, b, cost, reg=0.1, stopThr=1e-14, numItermax=10000)
    C = torch.from_numpy(cost)
    return Problem(
        DoublyStochastic(rows=torch.from_numpy(a), columns=torch.from_numpy(b)),
        torch.from_numpy(np.outer(a, b)),
        lambda y: (C * y).sum() + 0.1 * (y * y.log()).sum(),
        plan,
    )


def symplectic_trace() -> Problem:
    """min tr(S^T M S) is twice the sum of the symplectic eigenvalues of M (Williamson)."""
    m = np.random.default_rng(2).standard_normal((4, 4))
    m = m @ m.T + np.eye(4)
    j = np.block([[np.zeros((2, 2)), np.eye(2)], [-np.eye(2), np.zeros((2, 2))]])
    pairs = np.abs(np.linalg.eigvals(1j * j @ m).real)
    M = torch.from_numpy(m)

    def trace(y: torch.Tensor) -> torch.Tensor:
        return (y * (M @ y)).sum()

    return Problem(
        Symplectic(), torch.eye(4, dtype=F64), trace, pairs.sum(), trace, retract_every=2
    )


def tree_in_the_poincare_ball() -> Problem:
    """A binary tree of 7 nodes, edges of length 6: the distances of networkx, to a few percent.

    (Sarkar 2011: to any precision, if the edges are long.)
    """
    tree = nx.balanced_tree(2, 2)
    lengths = np.array(nx.floyd_warshall_numpy(tree)) * 6.0
    rows, columns = np.triu_indices(7, 1)
    D = torch.from_numpy(lengths[rows, columns])

    def stress(y: torch.Tensor) -> torch.Tensor:
        gap = (y[rows] - y[columns]).square().sum(-1)
        inside = 1 - y.square().sum(-1)
        distance = torch.acosh(1 + 2 * gap / (inside[rows] * inside[columns]))
        return (distance / D - 1).square().mean()

    angle = torch.tensor([0.0, 0.0, 1.0, -0.25, 0.25, 0.75, 1.25], dtype=F64) * torch.pi
    radius = torch.tensor([0.0, 0.5, 0.5, 0.8, 0.8, 0.8, 0.8], dtype=F64)
    start = radius * torch.stack((angle.cos(), angle.sin()))
    return Problem(PoincareBall(), start.mT.contiguous(), stress, 0.0, stress, atol=1e-3)


def midpoint_in_hyperbolic_space() -> Problem:
    """The point between p and q on the hyperboloid is (p + q) / |p + q|."""
    p = np.array([np.sqrt(1 + 1.0), 1.0, 0.0])
    q = np.array([np.sqrt(1 + 9.0), 0.0, -3.0])
    total = p + q
    length = np.sqrt(total[0] ** 2 - np.square(total[1:]).sum())
    ends = torch.from_numpy(np.stack((p, q)))

    def loss(y: torch.Tensor) -> torch.Tensor:
        inner = ends[:, 0] * y[0] - (ends[:, 1:] * y[1:]).sum(-1)
        return torch.acosh(inner.clamp_min(1 + 1e-12)).square().sum()

    return Problem(Lorentz(), torch.tensor([1.0, 0.0, 0.0], dtype=F64), loss, total / length)


PROBLEMS = {
    f.__name__: f
    for f in (
        stable_linear_system,
        continuous_dynamics,
        markov_generator,
        transport_plan,
        symplectic_trace,
        tree_in_the_poincare_ball,
        midpoint_in_hyperbolic_space,
    )
}
