"""Ordered and convex vectors: torch.distributions, scikit-learn, ties of floating point."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.isotonic import isotonic_regression
from torch.distributions import transforms

from constrainedparams import Convex, Ordered, Parametrized, PositiveOrdered
from constrainedparams.errors import ConstraintViolation, OptionError
from constrainedparams.numerics.elementary import least
from constrainedparams.numerics.sequences import isotonic, separated

ALL = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
SORTED = [-2.0, -1e-3, 0.0, 1.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
double = {"dtype": torch.float64}


def by_loops(x, gap, first):
    y = [first(x[0])]
    for value in x[1:]:
        y.append(y[-1] + gap + math.log1p(math.exp(value)))
    return np.array(y)


@pytest.mark.parametrize(
    ("constraint", "gap", "first", "sign"),
    [
        (Ordered(), 0.0, lambda v: v, 1),
        (Ordered(min_gap=0.3), 0.3, lambda v: v, 1),
        (Ordered(descending=True, min_gap=0.3), 0.3, lambda v: -v, -1),
        (PositiveOrdered(), 0.0, lambda v: math.log1p(math.exp(v)), 1),
    ],
    ids=["ordered", "with a gap", "descending", "positive"],
)
def test_the_map_step_by_step(constraint, gap, first, sign):
    x = torch.randn(7, **double)
    expected = sign * by_loops(x.tolist(), gap, first)
    y = constraint(x)
    assert np.abs(y.numpy() - expected).max() < 1e-14
    assert torch.allclose(constraint.right_inverse(y), x, rtol=1e-12, atol=1e-12)


def test_log_det_is_that_of_torch_distributions():
    """The steps one by one through SoftplusTransform; sums of steps have determinant 1."""
    x = torch.randn(2, 5, **double)
    t = transforms.SoftplusTransform()
    each = t.log_abs_det_jacobian(x, t(x))
    for constraint, free in (
        (PositiveOrdered(), 0),
        (Ordered(), 1),
        (Ordered(True, 0.5), 1),
        (Convex(), 2),
    ):
        found = constraint.log_abs_det_jacobian(x)
        assert torch.allclose(found, each[:, free:].sum(-1), rtol=1e-13)


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("start", [0.0, 1e-6, -3.0, 1e4, -1e4])
def test_the_order_is_strict_where_sums_of_steps_would_tie(start, dtype):
    if dtype == torch.float16:
        start = max(min(start, 1e3), -1e3)
    x = torch.full((12,), -60.0, dtype=dtype)
    x[0] = start
    x[6] = 1.0
    assert bool((x.cumsum(0).diff() != 0).any())
    for constraint in (Ordered(), Ordered(min_gap=1e-12), PositiveOrdered()):
        y = constraint(x)
        assert bool((y.diff() > 0).all()), y
        assert bool(constraint.contains(y))
        back = constraint(constraint.right_inverse(y))
        assert bool((back.diff() > 0).all())
        assert torch.allclose(back, y, rtol=16 * torch.finfo(dtype).eps, atol=1e-6)
    y = Ordered(descending=True)(x)
    assert bool((y.diff() < 0).all())
    leaf = x.clone().requires_grad_()
    Ordered()(leaf).sum().backward()
    assert bool(torch.isfinite(leaf.grad).all()) and leaf.grad[0] == 12


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_separated_gives_the_next_number_and_moves_nothing_else(dtype):
    values = [-2.0, -2.0, -1e-3, -0.0, 0.0, 1.0, 1.0, 1.0, 5.0, 4.0]
    y = separated(torch.tensor([values, SORTED], dtype=dtype))
    eps, tiny = torch.finfo(dtype).eps, least(dtype)
    expected = [-2.0, -2.0 + eps, -1e-3, 0.0, tiny, 1.0, 1 + eps, 1 + 2 * eps, 5.0, 5 + 4 * eps]
    assert torch.equal(y[0], torch.tensor(expected, dtype=dtype))
    assert torch.equal(y[1], torch.tensor(SORTED, dtype=dtype))


def test_a_gap_is_kept_up_to_rounding():
    x = torch.full((1000,), -100.0)
    y = Ordered(min_gap=0.1)(x)
    assert bool(Ordered(min_gap=0.1).contains(y))
    assert not bool(Ordered(min_gap=0.1001).contains(y))
    assert float(y[-1] - y[0]) == pytest.approx(99.9, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_increasing_vector_is_that_of_scikit_learn(seed):
    y = torch.randn(2, 30, generator=torch.Generator().manual_seed(seed), **double)
    found = isotonic(y, torch.zeros(2))
    for row, given in zip(found.numpy(), y.numpy(), strict=True):
        assert np.abs(row - isotonic_regression(given)).max() < 1e-12
    steps = Ordered(min_gap=0.5).project(y).diff()
    assert float(steps.min()) == pytest.approx(0.51, abs=1e-9)
    down = Ordered(descending=True).project(y[0]).numpy()
    ramp = 0.01 * np.arange(30)
    assert (
        np.abs(down - (isotonic_regression(y[0].numpy() + ramp, increasing=False) - ramp)).max()
        < 1e-12
    )
    up = PositiveOrdered().project(y[0]).numpy()
    expected = np.maximum(
        isotonic_regression(y[0].numpy() - ramp) + ramp, 0.01 * (1 + np.arange(30))
    )
    assert np.abs(up - expected).max() < 1e-12


def test_equal_numbers_are_refused_with_the_way_out():
    y = torch.tensor([1.0, 1.0, 2.0])
    with pytest.raises(ConstraintViolation, match=r"Ordered\(\)\.project"):
        Ordered().right_inverse(y)
    with pytest.raises(OptionError, match="0 or more"):
        Ordered(min_gap=-1.0)


def test_cut_points_of_an_ordinal_model_are_found():
    counts = np.array([10.0, 30.0, 40.0, 20.0])
    cuts = Parametrized(torch.zeros(3, **double), Ordered())
    optimizer = torch.optim.LBFGS(cuts.parameters(), max_iter=100, line_search_fn="strong_wolfe")
    weights = torch.from_numpy(counts / counts.sum())

    def closure():
        optimizer.zero_grad()
        edge = torch.sigmoid(cuts.y)
        p = torch.cat((edge[:1], edge.diff(), 1 - edge[-1:]))
        loss = -(weights * p.log()).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    share = counts.cumsum()[:-1] / counts.sum()
    assert np.abs(cuts.y.detach().numpy() - np.log(share / (1 - share))).max() < 1e-4


# convex sequences -------------------------------------------------------------------------------


def test_second_differences_are_softplus_of_x():
    x = torch.randn(2, 6, **double)
    y = Convex()(x).numpy()
    assert np.abs(np.diff(y, n=2) - np.log1p(np.exp(x[:, 2:].numpy()))).max() < 1e-14
    assert np.abs(y[:, 0] - x[:, 0].numpy()).max() == 0
    assert np.abs(y[:, 1] - y[:, 0] - x[:, 1].numpy()).max() < 1e-15


@pytest.mark.parametrize(
    ("dtype", "n"), list(itertools.product([torch.float32, torch.float64], [4, 200]))
)
def test_convex_values_come_back_also_where_they_are_straight(dtype, n):
    t = torch.linspace(-1, 1, n, **double)
    for y in (t**2, t.exp(), t.abs(), 3 - t, 1e6 + t**2):
        y = y.to(dtype)
        assert bool(Convex().contains(y))
        back = Convex()(Convex().right_inverse(y))
        assert torch.allclose(
            back, y, rtol=0, atol=n * torch.finfo(dtype).eps * float(y.abs().max())
        )
    for y in (-(t**2), t.sin(), torch.ones_like(t)):
        assert not bool(Convex().contains(y.to(dtype)))
        assert bool(Convex().contains(Convex().project(y.to(dtype))))


def test_short_sequences_are_convex():
    for n in (1, 2):
        y = torch.randn(n)
        assert torch.equal(Convex()(Convex().right_inverse(y)), y)
        assert torch.equal(Convex().project(y), y)
        assert Convex().dimension((n,)) == n


def test_convex_regression_is_the_quadratic_programme():
    rng = np.random.default_rng(0)
    t = np.linspace(-1, 1, 9)
    data = t**2 + 0.3 * rng.standard_normal(9)
    found = scipy.optimize.minimize(
        lambda y: ((y - data) ** 2).sum(),
        t**2,
        constraints={"type": "ineq", "fun": lambda y: np.diff(y, n=2)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    w = Parametrized(torch.from_numpy(t**2), Convex())
    optimizer = torch.optim.LBFGS(
        w.parameters(),
        max_iter=2000,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = (w.y - torch.from_numpy(data)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert np.abs(w.y.detach().numpy() - found.x).max() < 1e-3
