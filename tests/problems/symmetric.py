"""Symmetric matrices: covariances, correlations, states, volumes."""

import numpy as np
import scipy.linalg
import torch
from sklearn.datasets import load_wine

from constrainedparams import (
    Correlation,
    DensityMatrix,
    FixedRankPositiveSemidefinite,
    PositiveDefinite,
    UnitDeterminantPositiveDefinite,
)

from .problem import Problem, optimizer

F64 = torch.float64
INDEFINITE = np.array(
    [[1, 0.9, 0.7, -0.8], [0.9, 1, 0.3, 0.6], [0.7, 0.3, 1, 0.9], [-0.8, 0.6, 0.9, 1.0]]
)


def covariance_by_maximum_likelihood() -> Problem:
    """Wine, standardised: the maximum is the covariance of the sample."""
    data = load_wine().data[:, :6]
    data = (data - data.mean(0)) / data.std(0)
    sample = data.T @ data / len(data)
    S = torch.from_numpy(sample)
    return Problem(
        PositiveDefinite(),
        torch.eye(6, dtype=F64),
        lambda y: torch.logdet(y) + torch.linalg.solve(y, S).diagonal().sum(),
        sample,
        atol=1e-5,
    )


def _higham(a: np.ndarray) -> np.ndarray:
    """Alternating projections with Dykstra's correction (Higham, IMA J. Numer. Anal. 2002)."""
    y, correction = a.copy(), np.zeros_like(a)
    for _ in range(20000):
        r = y - correction
        values, vectors = np.linalg.eigh(r)
        x = (vectors * np.maximum(values, 0)) @ vectors.T
        correction = x - r
        y = x.copy()
        np.fill_diagonal(y, 1)
    return y


def nearest_correlation() -> Problem:
    """To an indefinite matrix: the nearest one is singular, on the boundary."""
    a, A = INDEFINITE, torch.from_numpy(INDEFINITE)
    return Problem(
        Correlation(rank=3),
        torch.eye(4, dtype=F64),
        lambda y: (y - A).square().sum(),
        _higham(a),
        atol=1e-5,
    )


def max_cut_of_a_pentagon() -> Problem:
    """The relaxation of Goemans and Williamson on a cycle of 5: 5 (1 + cos(pi/5)) / 2."""
    edges = [(i, (i + 1) % 5) for i in range(5)]

    def cut(y: torch.Tensor) -> torch.Tensor:
        return torch.stack([(1 - y[i, j]) / 2 for i, j in edges]).sum()

    torch.manual_seed(0)
    return Problem(
        Correlation(rank=3),
        Correlation(rank=3).sample((5, 5), dtype=F64),
        lambda y: -cut(y),
        5 * (1 + np.cos(np.pi / 5)) / 2,
        cut,
    )


def tomography() -> Problem:
    """Counts of a spin pair in random bases; the state of maximum likelihood by R rho R."""
    rng = np.random.default_rng(0)
    bases = scipy.stats.unitary_group.rvs(4, size=12, random_state=1)
    rays = bases.reshape(-1, 4)  # rows: one outcome each
    true = np.diag([0.6, 0.3, 0.08, 0.02]).astype(complex)
    p = np.einsum("ri,ij,rj->r", rays.conj(), true, rays).real.reshape(12, 4)
    counts = np.array([rng.multinomial(400, row / row.sum()) for row in p]).reshape(-1)
    share = counts / counts.sum()
    rho = np.eye(4, dtype=complex) / 4
    for _ in range(20000):
        q = np.einsum("ri,ij,rj->r", rays.conj(), rho, rays).real
        r = np.einsum("r,ri,rj->ij", share / q, rays, rays.conj())
        rho = r @ rho @ r
        rho /= np.trace(rho).real
    R, share_t = torch.from_numpy(rays), torch.from_numpy(share)

    def loss(y: torch.Tensor) -> torch.Tensor:
        q = torch.einsum("ri,ij,rj->r", R.conj(), y, R).real
        return -(share_t * q.log()).sum()

    return Problem(
        DensityMatrix(),
        torch.eye(4, dtype=torch.complex128) / 4,
        loss,
        loss(torch.from_numpy(rho)),
        loss,
        atol=1e-7,
        make=optimizer("Adam", lr=0.02),
        steps=500,
    )


def smallest_trace_of_unit_volume() -> Problem:
    """min tr(A y) with det y = 1 is n det(A)^(1/n), at A^-1 scaled (means of eigenvalues)."""
    a = np.random.default_rng(2).standard_normal((4, 4))
    a = a @ a.T + np.eye(4)
    A = torch.from_numpy(a)
    return Problem(
        UnitDeterminantPositiveDefinite(),
        torch.eye(4, dtype=F64),
        lambda y: (A * y).sum(),
        np.linalg.det(a) ** 0.25 * np.linalg.inv(a),
        atol=1e-5,
    )


def nearest_of_low_rank() -> Problem:
    """The nearest positive semidefinite matrix of rank 2 keeps the two largest eigenvalues."""
    a = np.random.default_rng(3).standard_normal((6, 6))
    a = a + a.T + 4 * np.eye(6)
    values, vectors = np.linalg.eigh(a)
    A = torch.from_numpy(a)
    return Problem(
        FixedRankPositiveSemidefinite(2),
        torch.from_numpy(np.diag([1.0, 1, 0, 0, 0, 0]) + 0.0),
        lambda y: (y - A).square().mean(),
        (vectors[:, -2:] * values[-2:]) @ vectors[:, -2:].T,
        atol=1e-5,
        steps=60,
    )


PROBLEMS = {
    f.__name__: f
    for f in (
        covariance_by_maximum_likelihood,
        nearest_correlation,
        max_cut_of_a_pentagon,
        tomography,
        smallest_trace_of_unit_volume,
        nearest_of_low_rank,
    )
}
