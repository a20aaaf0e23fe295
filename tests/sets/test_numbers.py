"""Numbers beyond a bound and angles: torch.distributions, mpmath, bounds in every dtype."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import transforms

from constrainedparams import (
    Angle,
    Ball,
    BoundedSingularValues,
    GreaterThan,
    Interval,
    LessThan,
    NonNegative,
    Parametrized,
    Positive,
    PositiveDefinite,
    register_constrained_parameter,
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


REACHED = {  # the set, goals of two entries, where they end
    "interval": (Interval(0.0, 1.0, closed=True), [-1.5, 2.0], [0.0, 1.0]),
    "interval, left": (Interval(0.0, 1.0, closed="left"), [-1.5, 0.75], [0.0, 0.75]),
    "interval, right": (Interval(-1.0, 1.0, closed="right"), [2.0, -0.25], [1.0, -0.25]),
    "non-negative": (NonNegative(), [-1.5, 2.0], [0.0, 2.0]),
    "from a bound": (GreaterThan(0.25, closed=True), [-1.5, 2.0], [0.25, 2.0]),
    "to a bound": (LessThan(0.75, closed=True), [-1.5, 2.0], [-1.5, 0.75]),
    "ball": (Ball(1.0, math.inf, True), [-1.5, 2.0], [-1.0, 1.0]),
}


@pytest.mark.parametrize("start", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", REACHED)
def test_a_closed_set_reaches_its_boundary_and_leaves_it(name, start):
    """Goals beyond the bounds lead to them, from the bounds too; goals inside lead back."""
    constraint, beyond, reached = REACHED[name]
    first = constraint.project(torch.full((2,), start, dtype=torch.float64))
    w = Parametrized(first, constraint)
    for goal, end in ((beyond, reached), ([0.3, 0.5], [0.3, 0.5])):
        w.y = constraint.project(w.y.detach())  # as a checkpoint is loaded: zeros come back exactly
        optimizer = torch.optim.Adam(w.parameters(), lr=0.02)
        for _ in range(600):
            optimizer.zero_grad()
            (w.y - torch.tensor(goal)).square().sum().backward()
            optimizer.step()
        assert torch.allclose(w.y.detach(), torch.tensor(end, dtype=torch.float64), atol=2e-3)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_a_closed_bound_is_reached_and_an_open_one_is_not(bound, dtype):
    """In every dtype: f(0) is the bound, the bound is a member, its x is not the flat point."""
    width, far = 16 * torch.finfo(dtype).eps * max(abs(bound), 1), torch.tensor(FAR, dtype=dtype)
    at = torch.full((), bound, dtype=dtype)
    for constraint, open_end in [
        (GreaterThan(bound, closed=True), math.inf),
        (LessThan(bound, closed=True), -math.inf),
        (Interval(bound, bound + width, closed="left"), bound + width),
        (Interval(bound - width, bound, closed="right"), bound - width),
    ]:
        assert constraint(torch.zeros((), dtype=dtype)) == at
        assert bool(constraint.contains(at))
        x = constraint.right_inverse(at)
        least = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        assert float(x) ** 2 >= least / 2
        assert float(constraint(x)) == pytest.approx(float(at), abs=2 * torch.finfo(dtype).eps)
        if math.isfinite(open_end):
            y = constraint(torch.cat((far, far * 1e4)))
            limit = y if dtype == torch.float32 else y.double()  # where the bound is rounded first
            assert bool((limit < open_end if open_end > bound else limit > open_end).all())
            assert bool(constraint.contains(y).all())


@given(st.floats(-1e3, 1e3), st.floats(-5, 5), st.floats(0.01, 100))
@settings(max_examples=40, deadline=None)
def test_the_maps_that_reach_one_bound(x, bound, width):
    """Against mpmath, and back; the halves are mirror images."""
    t = torch.tensor([x], dtype=torch.float64)
    with mpmath.workdps(40):
        square = mpmath.mpf(x) ** 2
        share = float(square / (1 + square))
        square = float(square)
    rows = [
        (GreaterThan(bound, closed=True), bound + square),
        (LessThan(bound, closed=True), bound - square),
        (Interval(bound, bound + width, closed="left"), bound + width * share),
        (Interval(bound - width, bound, closed="right"), bound - width * share),
    ]
    for constraint, expected in rows:
        y = constraint(t)
        assert float(y) == pytest.approx(expected, rel=1e-14, abs=1e-14 * (abs(bound) + width))
        near = 1e-14 * (1 + width + square)
        assert float(constraint(constraint.right_inverse(y))) == pytest.approx(float(y), abs=near)


def test_a_half_open_interval_does_not_overflow():
    x = torch.tensor([1e30, -1e30], requires_grad=True)
    y = Interval(0.0, 1.0, closed="left")(x)
    y.sum().backward()
    assert bool((y < 1).all()) and bool((y > 0.999).all())
    assert x.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("constraint", "given", "kept"),
    [
        (Interval(0.7, 1.0, closed="left"), 0.7, 0.69921875),
        (Interval(-100.0, 1.0, closed="left"), 1.0, 0.99609375),  # the last below 1
        (GreaterThan(0.007, closed=True), 0.007, 0.006988525390625),
        (LessThan(-0.007, closed=True), -0.007, -0.006988525390625),
    ],
    ids=repr,
)
def test_a_number_in_half_precision_stands_for_the_nearest_of_the_set(constraint, given, kept):
    """0.7 in bfloat16 is 0.69921875, below 0.7: a member, which is not moved as 0.69 would be."""
    y = torch.tensor(given, dtype=torch.bfloat16)
    assert bool(constraint.contains(y))
    assert float(constraint(constraint.right_inverse(y))) == pytest.approx(kept, rel=1e-6)


def test_a_number_off_the_set_in_half_precision_is_none():
    off = torch.tensor(0.69, dtype=torch.bfloat16)
    assert not bool(GreaterThan(0.7, closed=True).contains(off))
    assert not bool(Interval(0.7, 1.0, closed="left").contains(off))


@pytest.mark.parametrize("closed", ["both", "neither", 1, None], ids=str)
def test_which_bounds_belong_is_asked_for_by_name(closed):
    with pytest.raises(OptionError, match=r'"left" for \[a, b\) or "right" for \(a, b\]'):
        Interval(0.0, 1.0, closed)
    with pytest.raises(OptionError, match="expected True or False"):
        GreaterThan(0.0, closed="left")


def test_closed_sets_that_are_one():
    x = torch.randn(100)
    assert torch.equal(GreaterThan(0.0, closed=True)(x), NonNegative()(x))
    mirrored = Interval(-1.0, 0.0, closed="right")(x)
    assert torch.equal(Interval(0.0, 1.0, closed="left")(x), -mirrored)
    text = repr(Interval(0.0, 1.0, closed="left"))
    assert text == "Interval(lower=0.0, upper=1.0, closed='left')"


@pytest.mark.parametrize("closed", [False, True, "left", "right"])
def test_a_bound_beyond_the_numbers_of_float16_is_not_reached_by_overflow(closed):
    constraint = Interval(-1e6, 1e6, closed=closed)
    x = torch.tensor([-40.0, -1.5, 1.5, 40.0], dtype=torch.float16, requires_grad=True)
    y = constraint(x)
    assert bool(torch.isfinite(y).all())
    assert bool(constraint.contains(y).all())
    (slope,) = torch.autograd.grad((y / 1e5).sum(), x)
    assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize(
    "constraint",
    [
        Interval(1.0, 1.0 + 1e-9),
        PositiveDefinite(1e6, 1e6 + 1),
        BoundedSingularValues(1.0, 1.0 + 1e-8),
    ],
    ids=repr,
)
def test_bounds_too_near_for_the_numbers_of_a_layer_are_refused_with_the_way_out(constraint):
    layer = torch.nn.Linear(3, 3)
    with pytest.raises(ConstraintViolation, match=r"Linear\.weight: .*bounds leave no room"):
        register_constrained_parameter(layer, "weight", constraint)
    layer.double()  # the remedy
    register_constrained_parameter(layer, "weight", constraint)
    assert bool(constraint.contains(layer.weight).all())
