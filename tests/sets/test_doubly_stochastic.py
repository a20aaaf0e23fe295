"""Doubly stochastic matrices and transport plans: single precision, problems with known answers."""

import numpy as np
import pytest
import scipy.optimize
import torch

from constrainedparams import DoublyStochastic, Parametrized
from constrainedparams.errors import OptionError, ShapeError


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_sums_are_those_of_rounded_entries(dtype, scale):
    y = DoublyStochastic()((scale * torch.randn(10, 32, 32)).to(dtype)).double()
    eps = max(torch.finfo(dtype).eps, 2e-15)
    assert float((y.sum(-1) - 1).abs().max()) < eps
    assert float((y.sum(-2) - 1).abs().max()) < eps
    assert bool((y > 0).all())


def test_any_numbers_added_to_rows_and_columns_change_nothing():
    x = torch.randn(4, 4, dtype=torch.float64)
    shifted = x + 50 * torch.randn(4, 1) + 50 * torch.randn(1, 4)
    c = DoublyStochastic()
    assert torch.allclose(c(shifted), c(x), atol=1e-13)
    moved, _ = c.retract(shifted)
    assert float(moved.mean(0).abs().max() + moved.mean(1).abs().max()) < 1e-13


def test_the_entropic_transport_plan_is_the_minimum(minimize):
    """<C, P> - e H(P) over plans: exp((f + g - C)/e), here by minimisation on the set."""
    rows, columns = [0.2, 0.3, 0.5], [0.6, 0.1, 0.2, 0.1]
    cost, e = torch.rand(3, 4, dtype=torch.float64), 0.3
    constraint = DoublyStochastic(rows, columns)
    start = constraint(torch.zeros(3, 4, dtype=torch.float64))
    found = minimize(constraint, start, lambda p: (cost * p).sum() + e * (p * p.log()).sum())
    p = np.exp(-cost.numpy() / e)
    for _ in range(5000):
        p = p * (np.array(rows) / p.sum(1))[:, None]
        p = p * (np.array(columns) / p.sum(0))
    assert np.allclose(found.numpy(), p, atol=1e-7)


def test_a_linear_cost_goes_to_the_plan_of_the_linear_programme():
    rows, columns = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.4])
    cost = torch.tensor([[1.0, 0.2], [0.1, 0.9], [0.5, 0.4]], dtype=torch.float64)
    equal = np.array([np.kron(np.eye(3)[i], np.ones(2)) for i in range(3)])
    equal = np.vstack([equal, [np.kron(np.ones(3), np.eye(2)[j]) for j in range(2)]])
    best = scipy.optimize.linprog(cost.numpy().ravel(), A_eq=equal, b_eq=[*rows, *columns]).fun
    constraint = DoublyStochastic(rows, columns)
    w = Parametrized(constraint(torch.zeros(3, 2, dtype=torch.float64)), constraint)
    optimizer = torch.optim.Adam(w.parameters(), lr=0.3)
    for _ in range(400):
        optimizer.zero_grad()
        (cost * w.y).sum().backward()
        optimizer.step()
    assert best < float((cost * w.y.detach()).sum()) < best + 1e-3


def test_project_is_the_scaling_of_what_is_there():
    noise = torch.rand(4, 4, dtype=torch.float64) + 0.1
    p = noise.numpy()
    for _ in range(2000):
        p = p / p.sum(1, keepdims=True)
        p = p / p.sum(0)
    assert np.allclose(DoublyStochastic().project(noise).numpy(), p, atol=1e-13)


def test_one_side_given_leaves_equal_sums_on_the_other():
    y = DoublyStochastic(rows=[1.0, 3.0])(torch.randn(2, 5))
    assert torch.allclose(y.sum(0), torch.full((5,), 0.8))
    y = DoublyStochastic(columns=2.0)(torch.randn(2, 5))
    assert torch.allclose(y.sum(1), torch.full((2,), 5.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": [1.0, 0.0]}, "expected positive numbers"),
        ({"rows": [[1.0], [2.0]]}, "expected a vector"),
        ({"rows": [1.0, 1.0], "columns": [1.0, 2.0]}, "expected equal totals"),
    ],
)
def test_sums_that_make_no_set_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        DoublyStochastic(**options)


def test_shapes_that_the_sums_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"expected a square matrix\. Otherwise give rows="):
        DoublyStochastic()(torch.zeros(2, 3))
    with pytest.raises(ShapeError, match=r"rows has 2 sums\. Give one for each of 3"):
        DoublyStochastic(rows=[1.0, 2.0])(torch.zeros(3, 3))
