"""Hyperboloid and ball: against their definitions, each other, and problems with known answers."""

import mpmath
import numpy as np
import pytest
import torch

from constrainedparams import Lorentz, Parametrized, PoincareBall
from constrainedparams.errors import OptionError


def lorentz_product(a, b):
    return -a[..., 0] * b[..., 0] + (a[..., 1:] * b[..., 1:]).sum(-1)


def to_ball(y, r):
    """The central projection from (-r, 0)."""
    return r * y[..., 1:] / (y[..., :1] + r)


@pytest.mark.parametrize("radius", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1.0, 1e3])
def test_points_of_the_hyperboloid(size, radius):
    x = size * torch.randn(50, 4, dtype=torch.float64)
    y = Lorentz(radius)(x)
    assert np.allclose(lorentz_product(y, y).numpy(), -(radius**2), atol=1e-9 * max(size**2, 1))
    assert bool((y[:, 0] > 0).all())


@pytest.mark.parametrize("radius", [0.3, 1.0, 5.0])
def test_the_two_models_are_pictures_of_each_other(radius):
    z = 3 * torch.randn(50, 3, dtype=torch.float64)
    y = Lorentz(radius)(torch.nn.functional.pad(z, (1, 0)))
    assert torch.allclose(to_ball(y, radius), PoincareBall(radius)(z / radius), atol=1e-14)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e3, 1e20, 1e37])
def test_float32_values_are_those_of_mpmath(size):
    x = size * torch.tensor([0.3, -0.5, 0.8])
    with mpmath.workdps(80):
        squares = sum(mpmath.mpf(v) ** 2 for v in x.tolist())
        height = mpmath.sqrt(1 + squares)
        ball = [float(mpmath.mpf(v) / (1 + height)) for v in x.tolist()]
    y = PoincareBall()(x)
    assert np.allclose(y.numpy(), ball, rtol=1e-6, atol=0)
    assert bool(PoincareBall().contains(y))
    assert float(y.double().norm()) < 1
    found = Lorentz()(torch.cat((torch.zeros(1), x)))
    assert float(found[0]) == pytest.approx(float(height), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_stay_inside_the_ball_in_every_dtype(dtype):
    y = PoincareBall()((1e4 * torch.randn(2000, 3)).to(dtype))
    assert bool((y.double().norm(dim=-1) < 1).all())


@pytest.mark.parametrize("constraint", [Lorentz(2.0), PoincareBall(2.0)], ids=str)
def test_samples_have_normal_tangent_vectors(constraint):
    """Distances from the origin, acosh of the first coordinate, are those of a chi distribution."""
    import scipy.stats

    ball = isinstance(constraint, PoincareBall)
    y = constraint.sample((20000, 3 if ball else 4), dtype=torch.float64)
    distance = 2 * torch.atanh(y.norm(dim=-1) / 2) if ball else torch.acosh(y[:, 0] / 2)
    assert scipy.stats.kstest(distance.numpy(), "chi", (3,)).pvalue > 0.01


def test_the_mean_of_points_of_the_hyperboloid_is_their_normalised_sum():
    """The minimiser of the mean Lorentzian distance (Law et al. 2019) has a closed form."""
    points = Lorentz().sample((20, 4), dtype=torch.float64)
    total = points.sum(0)
    expected = total / (-lorentz_product(total, total)).sqrt()
    w = Parametrized(Lorentz().project(torch.zeros(4, dtype=torch.float64)), Lorentz())
    optimizer = torch.optim.LBFGS(w.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -lorentz_product(w.y, points).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.allclose(w.y, expected, atol=1e-5)


@pytest.mark.parametrize("radius", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("cls", [Lorentz, PoincareBall])
def test_a_radius_that_makes_no_set_is_refused(cls, radius):
    with pytest.raises(OptionError, match="expected a positive number"):
        cls(radius)
