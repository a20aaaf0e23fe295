"""Positive numbers: against mpmath, in every dtype, and a scale with a closed form."""

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from constrainedparams import Parametrized, Positive, register_constrained_parameter
from constrainedparams.errors import ConstraintViolation, DtypeError

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
POINTS = [-80.0, -17.0, -1.0, 0.0, 0.5, 3.0, 30.0, 1000.0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_the_softplus_of_mpmath(dtype):
    x = torch.tensor(POINTS, dtype=dtype)
    with mpmath.workdps(50):
        expected = [float(mpmath.log1p(mpmath.exp(v))) for v in x.tolist()]
    found = Positive()(x).double().numpy()
    # In float16, numbers below 6e-5 are multiples of 6e-8 and never 0.
    coarse = 2.0**-24 if dtype == torch.float16 else 0.0
    assert np.allclose(found, expected, rtol=2 * torch.finfo(dtype).eps, atol=coarse)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_never_zero(dtype):
    x = torch.tensor([-1e4, -800.0, -200.0, -104.0, -88.0, -30.0, -17.4, 0.0], dtype=dtype)
    for y in (Positive()(x), Positive().sample((10000,), dtype=dtype)):
        assert y.dtype == dtype
        assert bool((y > 0).all())
        assert bool(torch.isfinite(Positive().right_inverse(y)).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_a_sample_that_is_zero_is_rounded_up(dtype, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **options: torch.full(shape, 1e-9))
    assert bool((Positive().sample((3,), dtype=dtype) > 0).all())


@pytest.mark.parametrize(
    ("dtype", "x"), [(torch.float16, -17.4), (torch.bfloat16, -88.0), (torch.float32, -88.0)]
)
def test_the_gradient_passes_where_the_value_is_rounded_up(dtype, x):
    leaf = torch.tensor([x], dtype=dtype, requires_grad=True)
    y = Positive()(leaf)
    weight = 1e4 if dtype == torch.float16 else 1e10
    y.backward(torch.tensor([weight], dtype=dtype))
    assert y.item() <= 2.0**-24
    assert leaf.grad.item() == pytest.approx(weight * math.exp(leaf.item()), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_right_inverse_is_that_of_mpmath(dtype):
    y = torch.tensor([1e-30, 1e-8, 1e-3, math.log(2.0), 0.7, 1.0, 20.0, 1e5, 1e30], dtype=dtype)
    with mpmath.workdps(60):
        expected = [float(v + mpmath.log(-mpmath.expm1(-v))) for v in map(mpmath.mpf, y.tolist())]
    found = Positive().right_inverse(y).numpy()
    assert np.allclose(found, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-15)
    assert torch.allclose(Positive()(Positive().right_inverse(y)), y, rtol=1e-5, atol=0)


def test_the_slope_is_never_zero_where_y_is_a_number():
    x = torch.linspace(-80, 80, 9).requires_grad_()
    y = Positive()(x)
    y.sum().backward()
    assert torch.allclose(x.grad, -torch.expm1(-y.detach()))
    assert bool((x.grad > 0).all())


def test_values_that_are_not_positive_are_refused_and_projected():
    y = torch.tensor([-2.0, 0.0, 1e-20, 0.3])
    assert Positive().contains(y).tolist() == [False, False, True, True]
    assert Positive().residual(y).tolist() == pytest.approx([2.0, 1.2e-38, 0.0, 0.0])
    with pytest.raises(ConstraintViolation, match=r"the value is 2 away from Positive\(\)"):
        Positive().right_inverse(y)
    assert Positive().project(y).tolist() == pytest.approx([0.01, 0.01, 1e-20, 0.3])
    with pytest.raises(DtypeError, match="real floating point"):
        Positive()(torch.zeros(2, dtype=torch.complex64))


def test_log_det_at_any_scale():
    x = torch.tensor([-1e4, -50.0, 0.0, 3.0, 1e4], dtype=torch.float64)
    with mpmath.workdps(50):
        expected = [float(-mpmath.log1p(mpmath.exp(-v))) for v in x.tolist()]
    assert Positive().log_abs_det_jacobian(x).tolist() == pytest.approx(expected, rel=1e-15)
    # A density of y seen through f is one of x: the integral is 1.
    grid = torch.linspace(-60, 60, 200001, dtype=torch.float64)
    y, log_det = Positive()(grid), Positive().log_abs_det_jacobian(grid)
    density = torch.exp(-y + log_det)
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, rel=1e-9)


def test_samples_are_exponential():
    y = Positive().sample((20000,), dtype=torch.float64)
    assert scipy.stats.kstest(y.numpy(), "expon").pvalue > 0.01


def test_a_weight_that_was_zero_moves_away_again():
    layer = nn.Linear(2, 2)
    nn.init.zeros_(layer.weight)
    register_constrained_parameter(layer, "weight", Positive())
    assert torch.allclose(layer.weight, torch.full((2, 2), 0.01))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        (layer.weight - 2).square().sum().backward()
        optimizer.step()
    assert torch.allclose(layer.weight, torch.full((2, 2), 2.0), atol=1e-3)


PRECISE = {"tolerance_grad": 1e-14, "tolerance_change": 1e-16, "line_search_fn": "strong_wolfe"}


@pytest.mark.parametrize(
    ("make", "options", "steps"),
    [(torch.optim.Adam, {"lr": 0.5}, 1000), (torch.optim.LBFGS, PRECISE, 10)],
)
def test_a_positive_variance_has_a_closed_form(make, options, steps):
    data = 3.0 * torch.randn(500, dtype=torch.float64)
    variance = Parametrized(torch.ones(1, dtype=torch.float64), Positive())
    optimizer = make(variance.parameters(), **options)

    def closure():
        optimizer.zero_grad()
        loss = 0.5 * (data.square().mean() / variance.y + variance.y.log()).sum()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    assert variance.y.item() == pytest.approx(float(data.square().mean()), rel=1e-6)


def test_a_slope_whose_best_value_is_negative_goes_to_zero():
    x = torch.linspace(1, 2, 20, dtype=torch.float64)
    target = torch.stack([2.5 * x, -1.0 * x])
    slope = Parametrized(torch.full((2,), 0.5, dtype=torch.float64), Positive())
    optimizer = torch.optim.SGD(slope.parameters(), lr=0.3)
    for _ in range(1500):
        optimizer.zero_grad()
        (slope.y[:, None] * x - target).square().mean().backward()
        optimizer.step()
    # Non-negative least squares, one unknown each: max(<x, t>/<x, x>, 0).
    assert slope.y[0].item() == pytest.approx(2.5, rel=1e-9)
    assert 0 < slope.y[1].item() < 2e-3
