"""Lengths, directions and projections of vectors against NumPy, mpmath and SciPy."""

import mpmath
import numpy as np
import pytest
import scipy.optimize
import torch

from constrainedparams.numerics.vectors import length, nearest_in_simplex, sine_of_length, unit

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def exact(x):
    """|x| in 50 digits."""
    with mpmath.workdps(50):
        return mpmath.sqrt(sum(abs(mpmath.mpmathify(v)) ** 2 for v in x.tolist()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e10, 1e30])
def test_length_and_direction_at_any_scale(size, dtype):
    x = size * torch.tensor([3.0, -1.0, 0.0, 1e-6, 2.0], dtype=dtype)
    if dtype.is_complex:
        x = x * (1 + 2j)
    eps = torch.finfo(dtype).eps
    norm = exact(x)
    assert float(length(x)) == pytest.approx(float(norm), rel=2 * eps)
    with mpmath.workdps(50):
        expected = [complex(mpmath.mpmathify(v) / norm) for v in x.tolist()]
    assert np.abs(unit(x).numpy() - expected).max() <= 2 * eps


@pytest.mark.parametrize("n", [1, 10, 1000, 1_000_000])
def test_length_of_a_long_vector_in_float32(n):
    x = torch.rand(n)
    expected = np.sqrt((x.double().numpy() ** 2).sum())
    assert float(length(x)) == pytest.approx(expected, rel=4e-7)
    assert float(length(unit(x))) == pytest.approx(1, abs=4e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_the_derivative_of_the_direction_at_any_scale(size, dtype):
    x = (size * torch.randn(5, dtype=dtype)).requires_grad_()
    g = torch.randn(5, dtype=dtype)
    unit(x).backward(g)
    y = x.detach().numpy().astype(np.complex128)
    n = np.linalg.norm(y)
    y /= n
    expected = (g.numpy() - y * np.vdot(y, g.numpy()).real) / n
    assert np.abs(x.grad.numpy() - expected).max() <= 8 * torch.finfo(dtype).eps / size


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_has_a_direction_and_a_way_out(dtype):
    for value in (0.0, 1e-320 if dtype in (torch.float64, torch.complex128) else 1e-40):
        x = torch.full((2, 4), value, dtype=dtype).requires_grad_()
        y = unit(x)
        assert y.tolist() == [[0.5] * 4] * 2
        weight = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=dtype)
        (first,) = torch.autograd.grad((y * weight).sum().real, x, create_graph=True)
        assert torch.allclose(first[0], torch.tensor([3.0, -1.0, -1.0, -1.0], dtype=dtype) / 8)
        (second,) = torch.autograd.grad(first.abs().square().sum(), x)
        assert bool(torch.isfinite(second).all())
    assert length(torch.zeros(2, 4, dtype=dtype)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_the_direction_passes_gradcheck_with_entries_that_are_zero(dtype):
    x = torch.tensor([[0.0, 2.0, 0.0], [0.3, -0.1, 0.0]], dtype=dtype, requires_grad=True)
    assert torch.autograd.gradcheck(unit, x)
    assert torch.autograd.gradgradcheck(unit, x)
    assert torch.autograd.gradcheck(unit, torch.zeros(3, dtype=dtype) + x[:, :1] * 0 + 1e-3 * x)


@pytest.mark.parametrize("low", [0.0, 0.05])
def test_the_nearest_point_of_the_simplex_is_that_of_a_quadratic_programme(low):
    for seed in range(5):
        y = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        found = scipy.optimize.minimize(
            lambda p, y=y.numpy(): ((p - y) ** 2).sum(),
            np.full(5, 0.2),
            jac=lambda p, y=y.numpy(): 2 * (p - y),
            bounds=[(low, 1)] * 5,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-15},
        )
        assert np.abs(nearest_in_simplex(y, low).numpy() - found.x).max() < 1e-7


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e30, 1e300])
def test_the_nearest_point_of_the_simplex_at_any_scale(size):
    y = size * torch.tensor([[1.0, 3.0, -2.0, 3.0], [-1.0, -1.0, -1.0, -1.0]], dtype=torch.float64)
    p = nearest_in_simplex(y)
    assert torch.allclose(p.sum(-1), torch.ones(2, dtype=torch.float64), rtol=1e-15)
    assert bool((p >= 0).all())
    assert torch.allclose(p[1], torch.full((4,), 0.25, dtype=torch.float64))
    assert torch.allclose(p[0], p[0, [0, 3, 2, 1]])
    if size >= 1:
        assert p[0].tolist() == [0.0, 0.5, 0.0, 0.5]


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-3, 0.03, 0.0317, 1.0, 3.0, 3.15, 40.0])
def test_the_sine_of_the_length_is_that_of_mpmath(size):
    """Value and slopes along and across x, on both sides of where the series ends."""
    x = torch.tensor([0.6 * size, 0.8 * size], dtype=torch.float64)
    norm = exact(x)
    along = float(mpmath.cos(norm))
    across = float(mpmath.sin(norm) / norm) if size else 1.0
    allowed = {"rtol": 4e-16 * max(1.0, size), "atol": 1e-15 * max(1.0, size)}
    torch.testing.assert_close(sine_of_length(x), across * x, **allowed)
    slope = torch.autograd.functional.jacobian(sine_of_length, x)
    unit = torch.tensor([0.6, 0.8], dtype=torch.float64)
    expected = across * torch.eye(2, dtype=torch.float64) + (along - across) * torch.outer(
        unit, unit
    )
    torch.testing.assert_close(slope, expected, **allowed)
