"""Rate matrices: chains whose generator and whose projection are known."""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch

from constrainedparams import RateMatrix


def test_exponentials_are_row_stochastic():
    y = RateMatrix()(2 * torch.randn(5, 5, dtype=torch.float64))
    p = scipy.linalg.expm(0.7 * y.numpy())
    assert np.allclose(p.sum(1), 1)
    assert (p > 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_project_is_the_nearest_matrix(seed):
    """Against a quadratic programme solved by SciPy, a row at a time."""
    a = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = RateMatrix().project(a).numpy()
    low = 1e-3 * float(a.abs().max())
    for i, row in enumerate(a.numpy()):
        bounds = [(None, None) if j == i else (low, None) for j in range(4)]
        best = scipy.optimize.minimize(
            lambda q, row=row: ((q - row) ** 2).sum(),
            np.zeros(4),
            jac=lambda q, row=row: 2 * (q - row),
            bounds=bounds,
            constraints={"type": "eq", "fun": lambda q: q.sum(), "jac": lambda q: np.ones(4)},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        assert np.allclose(found[i], best.x, atol=1e-6)


def test_maximum_likelihood_rates_are_counts_over_time(minimize):
    """Of a chain watched without gaps: jumps from i to j over the time spent in i."""
    jumps = torch.randint(1, 30, (4, 4)).double()
    time = 1 + 10 * torch.rand(4, 1, dtype=torch.float64)
    others = ~torch.eye(4, dtype=torch.bool)
    start = RateMatrix().project(torch.zeros(4, 4, dtype=torch.float64))

    def loss(y):
        return (time[:, 0] * -y.diagonal()).sum() - (jumps * y.clamp_min(1e-300).log())[
            others
        ].sum()

    found = minimize(RateMatrix(), start, loss)
    assert torch.allclose(found[others], (jumps / time)[others], rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_rates_stay_above_zero_in_every_dtype(dtype):
    y = RateMatrix()(torch.full((3, 3), -3000.0, dtype=dtype))
    others = ~torch.eye(3, dtype=torch.bool)
    assert bool((y[others] > 0).all())
    assert bool(RateMatrix().contains(y))
