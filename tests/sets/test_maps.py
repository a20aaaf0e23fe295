"""Maps of the sets against formulas and libraries that share no code with them."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constrainedparams import Interval, NonNegative, Orthogonal, PositiveDefinite


def lower(x):
    """The factor L, entry by entry in NumPy."""
    x = x.numpy()
    factor = np.tril(x, -1)
    for i in range(len(x)):
        factor[i, i] = math.log1p(math.exp(x[i, i].real))
    return factor


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_positive_definite_is_the_product_of_its_factor(dtype):
    x = torch.randn(4, 4, dtype=dtype)
    p = lower(x) @ lower(x).conj().T
    assert np.abs(PositiveDefinite()(x).numpy() - p).max() < 1e-13 * np.abs(p).max()
    inside = -1 * np.eye(4) + 3 * p @ np.linalg.inv(np.eye(4) + p)
    assert np.abs(PositiveDefinite(-1.0, 2.0)(x).numpy() - inside).max() < 1e-13


def test_right_inverse_of_positive_definite_is_the_cholesky_factor_of_scipy():
    y = PositiveDefinite().sample((5, 5), dtype=torch.float64)
    factor = scipy.linalg.cholesky(y.numpy(), lower=True)
    x = PositiveDefinite().right_inverse(y).numpy()
    assert np.abs(np.tril(x, -1) - np.tril(factor, -1)).max() < 1e-13
    assert np.abs(np.log1p(np.exp(np.diag(x))) - np.diag(factor)).max() < 1e-13


@pytest.mark.parametrize("n", [2, 8, 64, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
def test_positive_definite_passes_a_cholesky_test_at_any_condition_number(n, dtype):
    for scale in (1, 10, 100):
        y = PositiveDefinite()(scale * torch.randn(n, n, dtype=dtype))
        assert torch.equal(y, y.mH)
        assert int(torch.linalg.cholesky_ex(y)[1]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [2, 16, 100])
def test_singular_matrices_are_not_positive_definite(n, dtype):
    zero, ones = torch.zeros(n, n, dtype=dtype), torch.ones(n, n, dtype=dtype)
    for y in (zero, ones, torch.diag(torch.arange(n, dtype=dtype))):
        assert not bool(PositiveDefinite().contains(y))
        assert bool(PositiveDefinite().contains(PositiveDefinite().project(y)))


def test_positive_definite_does_not_depend_on_units():
    y = PositiveDefinite().sample((4, 4), dtype=torch.float64)
    units = torch.tensor([1e-30, 1e-8, 1.0, 1e20], dtype=torch.float64)
    scaled = units[:, None] * y * units
    assert bool(PositiveDefinite().contains(scaled))
    again = PositiveDefinite()(PositiveDefinite().right_inverse(scaled))
    assert torch.allclose(again / units / units[:, None], y, rtol=1e-12)


def test_project_of_positive_definite_clips_eigenvalues():
    y = torch.diag(torch.tensor([2.0, -1.0, 1.0]))
    norm = math.sqrt(6)
    expected = torch.diag(torch.tensor([2.0, 1e-3 * norm, 1.0]))
    assert torch.allclose(PositiveDefinite().project(y), expected)
    bounded = PositiveDefinite(0.0, 1.5).project(y)
    assert torch.allclose(bounded, torch.diag(torch.tensor([1.4985, 0.0015, 1.0])))


def test_orthogonal_moves_its_base_by_the_exponential():
    base = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    x = torch.randn(5, 5, dtype=torch.float64)
    skew = np.tril(x.numpy(), -1) - np.tril(x.numpy(), -1).T
    y = Orthogonal()(x, base=base)
    assert np.abs(y.numpy() - base.numpy() @ scipy.linalg.expm(skew)).max() < 1e-13


@pytest.mark.parametrize("name", ["exp", "cayley"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_orthogonal_keeps_the_component_of_the_start(name, sign):
    constraint = Orthogonal(name)
    start = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    start[0] *= sign * torch.linalg.det(start).sign()
    x, state = constraint.right_inverse(start)
    y = constraint(x + torch.randn(4, 4, dtype=torch.float64), **state)
    assert float(torch.linalg.det(y)) == pytest.approx(sign)


def test_project_of_orthogonal_is_the_polar_factor_of_scipy():
    for shape in ((4, 4), (6, 3), (3, 6)):
        y = torch.randn(shape, dtype=torch.float64)
        polar = scipy.linalg.polar(y.numpy(), side="left")[0]
        assert np.abs(Orthogonal().project(y).numpy() - polar).max() < 1e-13


@pytest.mark.parametrize("name", ["exp", "cayley"])
@pytest.mark.parametrize("shape", [(32, 32), (64, 8)], ids=str)
def test_a_thousand_retractions_in_float32_stay_on_the_set(name, shape):
    constraint = Orthogonal(name)
    x, state = constraint.right_inverse(constraint.sample(shape))
    for _ in range(1000):
        x, state = constraint.retract(x + 0.01 * torch.randn(shape), **state)
        assert not x.any()
    assert float(constraint.residual(state["base"])) < 1e-5


def test_a_base_that_was_cast_to_bfloat16_is_polished_by_project():
    base = Orthogonal().sample((8, 8)).bfloat16()
    assert float(Orthogonal().residual(Orthogonal().project(base.float()))) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("lower", "upper"), [(0.0, 1.0), (-1.0, 1.0), (1e6, 1e6 + 32), (-3.0, 1e-5)]
)
def test_an_open_interval_never_reaches_its_bounds(lower, upper, dtype):
    x = torch.tensor([-1e4, -200.0, -90.0, -17.0, 0.0, 17.0, 90.0, 200.0, 1e4], dtype=dtype)
    y = Interval(lower, upper)(x)
    assert bool(Interval(lower, upper).contains(y).all())
    if dtype != torch.bfloat16:
        assert bool((lower < y).all())
        assert bool((y < upper).all())


@given(st.floats(-30, 30), st.floats(-5, 5), st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_interval_is_the_scaled_sigmoid(x, lower, width):
    upper = lower + width
    y = Interval(lower, upper)(torch.tensor([x], dtype=torch.float64))
    assert float(y) == pytest.approx(lower + width / (1 + math.exp(-x)), rel=1e-12, abs=1e-12)
    z = Interval(lower, upper, closed=True)(torch.tensor([x], dtype=torch.float64))
    assert float(z) == pytest.approx(lower + width * (1 + math.sin(x)) / 2, rel=1e-9, abs=1e-12)


def test_log_det_of_interval_is_that_of_torch_distributions():
    x = torch.linspace(-40, 40, 9, dtype=torch.float64)
    sigmoid = torch.distributions.transforms.SigmoidTransform()
    expected = sigmoid.log_abs_det_jacobian(x, sigmoid(x)) + math.log(3.0)
    found = Interval(1.0, 4.0).log_abs_det_jacobian(x)
    assert torch.allclose(found[2:-2], expected[2:-2])
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("constraint", [NonNegative(), Interval(0.0, 1.0, closed=True)], ids=repr)
def test_closed_sets_reach_their_bound_and_leave_it_again(constraint):
    x = constraint.right_inverse(torch.zeros(1, dtype=torch.float64)).requires_grad_()
    assert float(constraint(x.detach())) < 1e-15
    optimizer = torch.optim.Adam([x], lr=0.02)
    for target in (0.5, 0.0):
        for _ in range(2400):  # the map is flat at the bound: the last digits take long
            optimizer.zero_grad()
            (constraint(x) - target).square().sum().backward()
            optimizer.step()
        assert constraint(x).item() == pytest.approx(target, abs=1e-3)


def test_project_starts_off_the_flat_point():
    start = NonNegative().project(torch.tensor([-2.0, 0.5]))
    assert start.tolist() == pytest.approx([1e-3, 0.5])
    assert Interval(0.0, 2.0).project(torch.tensor([-1.0, 0.5, 3.0])).tolist() == pytest.approx(
        [0.02, 0.5, 1.98]
    )


@pytest.mark.parametrize("closed", [False, True, "left", "right"])
@pytest.mark.parametrize("upper", [0.9, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_interval_may_be_wider_than_the_largest_number(dtype, upper, closed):
    largest = torch.finfo(dtype).max
    constraint = Interval(-0.9 * largest, upper * largest, closed=closed)
    y = constraint.sample((50,), dtype=dtype)
    assert bool(constraint.contains(y).all())
    assert float(y.min()) < 0 < float(y.max())
    again = constraint(constraint.right_inverse(y))
    assert float((again / largest - y / largest).abs().max()) <= 4 * torch.finfo(dtype).eps
    outside = constraint.project(torch.tensor([-largest, largest], dtype=dtype))
    assert bool(constraint.contains(outside).all())
    if not closed:  # the derivative is (b - a) s (1 - s)
        x = torch.tensor([0.3], dtype=dtype)
        s = 1 / (1 + math.exp(-0.3))
        expected = math.log(0.9 + upper) + math.log(largest) + math.log(s * (1 - s))
        assert float(constraint.log_abs_det_jacobian(x)) == pytest.approx(expected, rel=1e-6)
