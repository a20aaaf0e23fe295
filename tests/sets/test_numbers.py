"""Numbers beyond a bound and angles: torch.distributions, mpmath, bounds in every dtype."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch.distributions import transforms

from constrainedparams import (
    Angle,
    Ball,
    GreaterThan,
    Interval,
    LessThan,
    NonNegative,
    Parametrized,
    Positive,
)
from constrainedparams.errors import ConstraintViolation, OptionError, ShapeError

ALL = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
FAR = [-3e4, -200.0, -104.0, -17.0, -1.0, 0.0, 1.0, 17.0, 104.0, 3e4]
BOUNDS = [0.0, 1.0, -1.0, 0.1, -0.3, 1e3, 1e-3, -7.7]


def reference(bound, sign):
    """The transform of torch.distributions with the same values."""
    softplus = [transforms.AffineTransform(0.0, sign), transforms.SoftplusTransform()]
    return transforms.ComposeTransform([*softplus, transforms.AffineTransform(bound, sign)])


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize(("make", "sign"), [(GreaterThan, 1.0), (LessThan, -1.0)])
def test_values_and_log_det_are_those_of_torch_distributions(make, sign, bound):
    constraint, t = make(bound), reference(bound, sign)
    x = torch.linspace(-8, 8, 33, dtype=torch.float64)
    y = t(x)
    assert torch.allclose(constraint(x), y, rtol=1e-15, atol=1e-15)
    assert torch.allclose(
        constraint.log_abs_det_jacobian(x), t.log_abs_det_jacobian(x, y), rtol=1e-12
    )
    assert torch.allclose(constraint.right_inverse(y), x, rtol=1e-9, atol=1e-9 * abs(bound))


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_an_open_bound_is_never_reached_in_any_dtype(bound, dtype):
    x = torch.tensor(FAR, dtype=dtype)
    wide = 2 * torch.finfo(dtype).eps * abs(bound) + 1e-2
    for constraint, inside in [
        (GreaterThan(bound), lambda y: y > bound),
        (LessThan(bound), lambda y: y < bound),
        (Interval(bound, bound + wide), lambda y: (y > bound) & (y < bound + wide)),
        (Interval(bound - wide, bound), lambda y: (y > bound - wide) & (y < bound)),
    ]:
        y = constraint(x)
        assert y.dtype == dtype
        # in single precision the bound itself is rounded first
        limit = y if dtype == torch.float32 else y.double()
        assert bool(inside(limit).all()), (constraint, y)
        assert bool(constraint.contains(y).all())
        assert torch.allclose(constraint(constraint.right_inverse(y)), y, rtol=0.02, atol=0.02)


def test_greater_than_zero_is_positive():
    x = torch.randn(100)
    assert torch.equal(GreaterThan(0)(x), Positive()(x))
    assert torch.equal(LessThan(0)(-x), -Positive()(x))


def test_tensor_bounds_are_one_for_each_entry():
    low = torch.tensor([[0.0], [10.0]])
    y = GreaterThan(low)(torch.randn(2, 3) - 20)
    assert bool((y > low).all()) and bool((y < low + 1).all())
    assert GreaterThan(low) == GreaterThan([[0.0], [10.0]]) != LessThan(low)
    with pytest.raises(ShapeError, match=r"the bound broadcasts to"):
        GreaterThan(low).check_shape((3, 2))
    with pytest.raises(OptionError, match="leave the parameter free"):
        LessThan(math.inf)


@pytest.mark.parametrize("size", [1.0, 1e6])
def test_a_value_beyond_the_bound_is_refused_and_moved_inside(size):
    for constraint, sign in ((GreaterThan(size), 1), (LessThan(size), -1)):
        value = torch.tensor([size - sign * 2, size, size + sign * 2])
        with pytest.raises(ConstraintViolation, match=r"2(\.06)? away from"):
            constraint.right_inverse(value)
        moved = constraint.project(value)
        assert moved[2] == value[2]
        assert bool((sign * (moved - size) > 0).all())
        assert bool((constraint.right_inverse(moved).abs() < 8).all())  # where the map is not flat


def test_samples_are_exponential():
    y = LessThan(3.0).sample((100_000,), generator=torch.Generator().manual_seed(0))
    assert float(3 - y.mean()) == pytest.approx(1, abs=0.02)
    assert float(y.var()) == pytest.approx(1, abs=0.04)


# angles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("x", [0.0, -0.5, 3.0, 3.2, -3.2, 100.0, -7e3, 1e6])
def test_an_angle_is_the_remainder_of_mpmath(x, dtype):
    t = torch.tensor(x, dtype=dtype)
    with mpmath.workdps(60):
        turns = mpmath.nint(mpmath.mpf(float(t)) / (2 * mpmath.pi))
        expected = float(mpmath.mpf(float(t)) - 2 * mpmath.pi * turns)
    assert float(Angle()(t)) == pytest.approx(expected, abs=4 * torch.finfo(dtype).eps)


def test_an_angle_turns_through_pi_with_derivative_one():
    x = torch.tensor([3.1, math.pi, 3.2, 100.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(Angle()(x).sum(), x, create_graph=True)
    assert torch.allclose(slope, torch.ones_like(slope), rtol=1e-15)
    w = Parametrized(torch.tensor([2.9]), Angle())
    optimizer = torch.optim.SGD(w.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        (1 - torch.cos(w.y - 3.5)).sum().backward()
        optimizer.step()
    assert float(w.y.detach()) == pytest.approx(3.5 - 2 * math.pi, abs=1e-6)


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_both_ends_are_angles_and_keep_their_side(dtype):
    y = torch.tensor([-math.pi, math.pi], dtype=dtype)
    assert bool(Angle().contains(y).all())
    back = Angle()(Angle().right_inverse(y))
    assert torch.allclose(back, y, rtol=2 * torch.finfo(dtype).eps)
    far = torch.tensor([4.0, -100.0], dtype=dtype)
    moved = Angle().project(far)
    assert np.allclose(
        np.exp(1j * moved.double().numpy()),
        np.exp(1j * far.double().numpy()),
        atol=torch.finfo(dtype).eps,
    )
    assert torch.equal(Angle().retract(far)[0], moved)


# closed sets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("constraint", "reached"),
    [
        (Interval(0.0, 1.0, closed=True), [0.0, 1.0]),
        (NonNegative(), [0.0, 2.0]),
        (Ball(1.0, math.inf, True), [-1.0, 1.0]),
    ],
    ids=repr,
)
def test_a_closed_set_reaches_its_boundary_and_leaves_it(constraint, reached, start):
    """Goals beyond the bounds lead to them, from the bounds too; goals inside lead back."""
    w = Parametrized(torch.full((2,), start, dtype=torch.float64), constraint)
    for goal, end in (([-1.5, 2.0], reached), ([0.25, 0.5], [0.25, 0.5])):
        w.y = constraint.project(w.y.detach())  # as a checkpoint is loaded: zeros come back exactly
        optimizer = torch.optim.Adam(w.parameters(), lr=0.02)
        for _ in range(600):
            optimizer.zero_grad()
            (w.y - torch.tensor(goal)).square().sum().backward()
            optimizer.step()
        assert torch.allclose(w.y.detach(), torch.tensor(end, dtype=torch.float64), atol=2e-3)
