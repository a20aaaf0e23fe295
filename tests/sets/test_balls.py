"""Balls, and vectors by length and direction: SciPy, closed forms, what torch's weight norm does."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

from constrainedparams import (
    Ball,
    MagnitudeDirection,
    Parametrized,
    SumToZero,
    register_constrained_parameter,
)
from constrainedparams.errors import DtypeError, OptionError, RegistrationError, ShapeError

double = {"dtype": torch.float64}
NORMS = [1, 2, math.inf]


def optimize(w):
    options = {"tolerance_grad": 1e-14, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
    return torch.optim.LBFGS(w.parameters(), max_iter=500, **options)


BALLS = pytest.mark.parametrize(("p", "closed"), list(itertools.product(NORMS, [False, True])))


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (1, lambda x: x / (1 + np.abs(x).sum(-1, keepdims=True))),
        (2, lambda x: x / np.sqrt(1 + (x**2).sum(-1, keepdims=True))),
        (math.inf, np.tanh),
    ],
)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_the_open_map_and_its_inverse(p, expected, scale):
    x = scale * torch.randn(4, 3, **double)
    y = Ball(2.5, p)(x)
    assert np.abs(y.numpy() - 2.5 * expected(x.numpy())).max() < 1e-14
    if scale <= 1:
        assert torch.allclose(Ball(2.5, p).right_inverse(y), x, rtol=1e-9)


@BALLS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_y_is_inside_for_every_x(p, closed, dtype):
    constraint = Ball(0.7, p, closed)
    for size in (1e-8, 1.0, 1e3, 1e8, 1e18):
        x = (size * torch.randn(constraint.unconstrained_shape((50, 4)))).to(dtype)
        y = constraint(x)
        norm = torch.linalg.vector_norm(y.double(), p, dim=-1)
        assert bool(torch.isfinite(y).all()) and bool(constraint.contains(y).all())
        assert float(norm.max()) <= 0.7 * (
            1 + (4 * torch.finfo(dtype).eps if closed or dtype == torch.bfloat16 else 0)
        )
        if size >= 1e3 and p != 1 and not closed:
            assert float(norm.median()) > 0.69
        back = constraint(constraint.right_inverse(y))
        assert torch.allclose(
            back, y, rtol=8 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps
        )


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("closed", [False, True])
def test_the_nearest_point_is_that_of_a_minimiser(p, closed):
    y = 2 * torch.randn(4, generator=torch.Generator().manual_seed(1), **double)
    radius = 1.0 if closed else 0.99
    start, read, bounds = 0.1 * y.numpy(), lambda z: z, None
    if p == 1:  # positive and negative parts: the absolute value has no derivative at 0
        start = np.concatenate((start.clip(min=0), (-start).clip(min=0)))
        read, bounds = (lambda z: z[:4] - z[4:]), [(0, None)] * 8
        limits = {"type": "ineq", "fun": lambda z: radius - z.sum()}
    elif p == 2:
        limits = {"type": "ineq", "fun": lambda z: radius**2 - (z**2).sum()}
    else:
        start, bounds, limits = start.clip(-radius, radius), [(-radius, radius)] * 4, ()
    found = scipy.optimize.minimize(
        lambda z: ((read(z) - y.numpy()) ** 2).sum(),
        start,
        bounds=bounds,
        constraints=limits,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    nearest = read(found.x)
    moved = Ball(1.0, p, closed).project(y)
    assert np.abs(moved.numpy() - nearest).max() < 1e-5
    assert torch.equal(
        Ball(1.0, p, closed).project(0.1 * y / y.abs().sum()), 0.1 * y / y.abs().sum()
    )


@pytest.mark.parametrize("p", NORMS)
def test_the_closed_ball_reaches_its_boundary_exactly_enough_and_leaves_it(p):
    """A target outside leads to its nearest point, from a start on the boundary."""
    target = torch.tensor([3.0, 0.2, 0.0, -1.0], **double)
    start = torch.tensor([0.0, -1.0, 0.0, 0.0], **double)
    w = Parametrized(start, Ball(1.0, p, closed=True))
    optimizer = optimize(w)

    def closure():
        optimizer.zero_grad()
        loss = (w.y - target).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = Ball(1.0, p, closed=True).project(target)
    assert torch.allclose(w.y.detach(), expected, atol=1e-5)
    target = inside = torch.tensor([0.1, 0.0, 0.2, 0.0], **double)
    w = Parametrized(expected, Ball(1.0, p, closed=True))
    optimizer = torch.optim.Adam(w.parameters(), lr=0.05)
    for _ in range(500):
        optimizer.step(closure)
    assert torch.allclose(w.y.detach(), inside, atol=1e-3)


def test_samples_are_uniform():
    """|y|_p^n is uniform, and so is the share of any half space."""
    for p, n in itertools.product(NORMS, (2, 3)):
        y = Ball(2.0, p).sample((40_000, n), generator=torch.Generator().manual_seed(0), **double)
        share = (torch.linalg.vector_norm(y, p, dim=-1) / 2) ** n
        assert float(share.mean()) == pytest.approx(0.5, abs=0.01)
        assert float(share.var()) == pytest.approx(1 / 12, abs=0.005)
        assert float(y.mean(0).abs().max()) < 0.02
    z = Ball(1.0).sample(
        (40_000, 2), dtype=torch.complex128, generator=torch.Generator().manual_seed(0)
    )
    assert float((z.norm(dim=-1) ** 4).mean()) == pytest.approx(0.5, abs=0.01)


def test_options_and_dtypes_that_make_no_ball():
    for options in ({"radius": 0.0}, {"radius": math.inf}, {"p": 3}, {"p": 0}):
        with pytest.raises(OptionError, match="expected"):
            Ball(**options)
    with pytest.raises(DtypeError, match="ball with p=2"):
        Ball(1.0, 1)(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(ShapeError, match="Give a vector of length 1"):
        Ball(dim=None, closed=True).check_shape(())
    with pytest.raises(ShapeError, match="1 more than 2 times that of y"):
        Ball(1.0, 1, closed=True)(torch.zeros(4))
    assert repr(Ball(2.0, math.inf)) == "Ball(radius=2.0, p=float('inf'))"


# weight norm ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "dim"),
    [
        (nn.Linear(4, 3), -1),
        (nn.Linear(4, 3), 0),
        (nn.Conv2d(2, 3, 3), (1, 2, 3)),
        (nn.Linear(4, 3), None),
    ],
    ids=["rows", "columns", "filters", "whole"],
)
def test_weight_norm_trains_as_that_of_torch(layer, dim):
    """A step of SGD moves y as g v/|v| does, with g = softplus of a number."""
    weight = layer.weight.detach().double()
    layer = layer.double()
    register_constrained_parameter(layer, "weight", MagnitudeDirection(dim=dim))
    assert torch.allclose(layer.weight.detach(), weight, rtol=1e-14)
    axes = {-1: (1,), 0: (0,), None: tuple(range(weight.ndim))}.get(dim, dim)
    length = torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
    g = torch.log(torch.expm1(length)).requires_grad_()
    v = weight.clone().requires_grad_()
    target = torch.randn_like(weight)
    plain = (
        torch.nn.functional.softplus(g) * v / torch.linalg.vector_norm(v, dim=axes, keepdim=True)
    )
    (plain * target).sum().backward()
    with torch.no_grad():
        g -= 0.1 * g.grad
        v -= 0.1 * v.grad
        expected = (
            torch.nn.functional.softplus(g)
            * v
            / torch.linalg.vector_norm(v, dim=axes, keepdim=True)
        )
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    (layer.weight * target).sum().backward()
    optimizer.step()
    assert torch.allclose(layer.weight.detach(), expected, rtol=1e-12)


def test_a_convolution_is_told_to_say_which_axes():
    for constraint in (MagnitudeDirection(), Ball(), SumToZero()):
        with pytest.raises(
            RegistrationError, match=r"dim=\(1, 2, 3\) for one vector for each filter"
        ):
            register_constrained_parameter(nn.Conv2d(2, 3, 3), "weight", constraint)


def test_the_packing_is_as_documented():
    y = torch.randn(3, 4, **double)
    x = MagnitudeDirection().right_inverse(y)
    assert torch.equal(x[:, 1:], y)
    assert (
        np.abs(np.log1p(np.exp(x[:, 0].numpy())) - np.linalg.norm(y.numpy(), axis=1)).max() < 1e-14
    )
    x = MagnitudeDirection(dim=(1, 2)).right_inverse(y.reshape(3, 2, 2))
    assert x.shape == (3, 3, 2) and not x[:, 0, 1].any()
    ball = Ball(2.0, 1, closed=True)
    y = torch.tensor([0.5, 0.0, -1.0], **double)
    s, u, v = ball.right_inverse(y).split([1, 3, 3])
    assert torch.allclose(2 * (u**2 - v**2), y)
    assert float(s**2 + u @ u + v @ v) == pytest.approx(1)
    assert float(u[1]) == float(v[1]) == pytest.approx(math.sqrt(0.25 / 7))


def test_a_vector_that_is_zero_gets_a_direction():
    assert not bool(MagnitudeDirection().contains(torch.zeros(4)))
    assert torch.allclose(
        MagnitudeDirection().project(torch.zeros(2, 4)), torch.full((2, 4), 0.005)
    )
    for size in (1e-30, 1e-38, 1.0, 1e30):
        y = torch.tensor([3.0, -4.0]) * size
        assert torch.allclose(
            MagnitudeDirection()(MagnitudeDirection().right_inverse(y)), y, rtol=1e-5
        )
