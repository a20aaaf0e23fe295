"""General matrices: low rank, norms, structure, flows."""

import numpy as np
import scipy.linalg
import torch
from sklearn.datasets import load_iris

from constrainedparams import (
    Invertible,
    LowRank,
    NuclearNormBall,
    SpecialLinear,
    SpectralBall,
    Toeplitz,
)

from .problem import Problem

F64 = torch.float64


def _noise(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _near(a: np.ndarray):
    A = torch.from_numpy(a)
    return lambda y: (y - A).square().mean()


def truncation_of_singular_values() -> Problem:
    """Eckart and Young."""
    a = _noise(9, 6, seed=0)
    u, s, vt = scipy.linalg.svd(a, full_matrices=False)
    start = torch.from_numpy(_noise(9, 6, seed=1))
    return Problem(LowRank(2), start, _near(a), (u[:, :2] * s[:2]) @ vt[:2], atol=1e-5, steps=60)


def completion() -> Problem:
    """A matrix of rank 2 from four fifths of its entries."""
    a = _noise(12, 2, seed=2) @ _noise(2, 10, seed=3)
    seen = torch.from_numpy(np.random.default_rng(4).random((12, 10)) < 0.8)
    A = torch.from_numpy(a)
    return Problem(
        LowRank(2),
        torch.from_numpy(np.where(seen, a, 0.0)),
        lambda y: (y - A)[seen].square().mean(),
        a,
        atol=1e-4,
        steps=50,
    )


def nearest_contraction() -> Problem:
    """Singular values are clipped at 1, which an open ball has at infinity: distances compare."""
    a = _noise(6, 4, seed=5)
    u, s, vt = scipy.linalg.svd(a, full_matrices=False)
    clipped = np.square((u * s.clip(max=1)) @ vt - a).mean()
    start = torch.zeros(6, 4, dtype=F64)
    return Problem(SpectralBall(1.0), start, _near(a), clipped, _near(a), atol=1e-4)


def soft_thresholding() -> Problem:
    """Projection onto a nuclear norm ball takes the same amount from all singular values."""
    a = np.diag([3.0, 2.0, 1.0, 0.1]) @ scipy.stats.ortho_group.rvs(4, random_state=6)
    u, s, vt = scipy.linalg.svd(a)
    kept = np.maximum(s - 1.0, 0)  # 2 + 1 + 0 + 0
    start = torch.from_numpy(0.1 * np.eye(4) + 0.01 * _noise(4, 4, seed=7))
    return Problem(NuclearNormBall(3.0), start, _near(a), (u * kept) @ vt, atol=1e-3, steps=80)


def nearest_toeplitz() -> Problem:
    """The mean of each diagonal."""
    a = _noise(5, 4, seed=8)
    mean = {k: np.diagonal(a, k).mean() for k in range(-4, 4)}
    answer = [[mean[j - i] for j in range(4)] for i in range(5)]
    return Problem(Toeplitz(), torch.zeros(5, 4, dtype=F64), _near(a), answer)


def linear_flow() -> Problem:
    """log-likelihood of a linear flow to a normal: W^T W is the inverse covariance (iris)."""
    data = load_iris().data
    data = data - data.mean(0)
    S = torch.from_numpy(data.T @ data / len(data))
    return Problem(
        Invertible(sign=1),
        torch.eye(4, dtype=F64),
        lambda y: 0.5 * (y @ S * y).sum() - torch.linalg.slogdet(y)[1],
        np.linalg.inv(data.T @ data / len(data)),
        quantity=lambda y: y.mT @ y,
        atol=1e-4,
        steps=40,
    )


def smallest_of_unit_volume() -> Problem:
    """The least Frobenius norm with determinant 1 is sqrt(n), at rotations."""
    return Problem(
        SpecialLinear(),
        torch.from_numpy(_noise(4, 4, seed=9)),
        lambda y: y.square().sum(),
        4.0,
        quantity=lambda y: y.square().sum(),
    )


PROBLEMS = {
    f.__name__: f
    for f in (
        truncation_of_singular_values,
        completion,
        nearest_contraction,
        soft_thresholding,
        nearest_toeplitz,
        linear_flow,
        smallest_of_unit_volume,
    )
}
