"""Schur and Hurwitz stable matrices: eigenvalues by NumPy, any stable matrix, known systems."""

import numpy as np
import pytest
import scipy.linalg
import torch

from constrainedparams import Hurwitz, Parametrized, Schur
from constrainedparams.errors import ConstraintViolation, OptionError

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64]


def eigenvalues(y):
    wide = y.to(torch.complex128 if y.is_complex() else torch.float64)
    return np.linalg.eigvals(wide.numpy())


def raw(shape, dtype, scale):
    wide = torch.complex64 if dtype.is_complex else torch.float64
    return (scale * torch.randn(shape, dtype=wide)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 100.0, 1e4])
@pytest.mark.parametrize("n", [1, 4, 20])
def test_the_matrix_that_is_stored_is_stable(n, scale, dtype):
    scale = min(scale, 10.0) if dtype == torch.float16 else scale  # beyond, y overflows
    x = raw((8, n, n), dtype, scale)
    assert np.abs(eigenvalues(Schur(0.9)(x))).max() < 0.9
    y = Hurwitz(0.1)(x)
    if bool(torch.isfinite(y).all()):
        assert eigenvalues(y).real.max() < -0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_every_stable_matrix_is_reached(n, dtype):
    """Gaussian ones, scaled or shifted, which neither map makes likely."""
    a = torch.randn(n, n, dtype=dtype)
    found = eigenvalues(a)
    disc = a * float(0.95 / np.abs(found).max())
    x = Schur().right_inverse(disc)
    assert torch.allclose(Schur()(x), disc, rtol=0, atol=1e-10)
    left = a - float(found.real.max() + 0.3) * torch.eye(n, dtype=dtype)
    x = Hurwitz().right_inverse(left)
    assert torch.allclose(Hurwitz()(x), left, rtol=0, atol=1e-10)


def test_the_equations_behind_the_maps():
    """P = I + x^T x of Stein, P = (L L^T)^-1 of Lyapunov, by SciPy."""
    x = torch.randn(5, 5, dtype=torch.float64)
    a = 1.5 * Schur(1.5)(x).numpy() / 1.5**2
    p = scipy.linalg.solve_discrete_lyapunov(a.T, np.eye(5))
    assert np.allclose(p, np.eye(5) + (x.mT @ x).numpy())
    a = Hurwitz(0.5)(x).numpy() + 0.5 * np.eye(5)
    p = scipy.linalg.solve_continuous_lyapunov(a, -2 * np.eye(5))
    low = np.tril(x.numpy(), -1) + np.diag(np.log1p(np.exp(np.diag(x.numpy()))))
    assert np.allclose(p, np.linalg.inv(low @ low.T), rtol=1e-9)


@pytest.mark.parametrize("n", [2, 6])
def test_densities_of_a_batch_and_their_derivative(n):
    """log |det J| sums over nothing but the matrix, and has a gradient at distinct eigenvalues."""
    for constraint in (Schur(0.7), Hurwitz(0.2)):
        x = torch.randn(3, n, n, dtype=torch.float64, requires_grad=True)
        found = constraint.log_abs_det_jacobian(x)
        assert found.shape == (3,)
        full = torch.autograd.functional.jacobian(lambda t, c=constraint: c(t), x[0].detach())
        assert found[0].item() == pytest.approx(
            float(torch.linalg.slogdet(full.reshape(n * n, n * n))[1]), abs=1e-8
        )
        assert torch.autograd.gradcheck(constraint.log_abs_det_jacobian, x)


def test_least_squares_with_a_stable_solution_finds_it(minimize):
    """A vector autoregression whose free solution is stable: SciPy's lstsq."""
    rng = np.random.default_rng(0)
    truth = 0.9 * scipy.linalg.block_diag([[0.6, -0.8], [0.8, 0.6]], [[0.5]])
    states = [rng.normal(size=3)]
    for _ in range(200):
        states.append(truth @ states[-1] + 0.1 * rng.normal(size=3))
    past, future = np.array(states[:-1]), np.array(states[1:])
    free = scipy.linalg.lstsq(past, future)[0].T
    assert np.abs(np.linalg.eigvals(free)).max() < 1
    a, b = torch.from_numpy(past), torch.from_numpy(future)
    start = torch.zeros(3, 3, dtype=torch.float64)
    found = minimize(Schur(), start, lambda y: (a @ y.mT - b).square().mean())
    assert np.allclose(found.numpy(), free, atol=1e-6)


def test_an_unstable_fit_stops_at_the_bound():
    """The nearest scalar system to y = 1.5 has |y| -> 1; to y = 1, real part -> 0."""
    for constraint, target, bound in ((Schur(), 1.5, 1.0), (Hurwitz(), 1.0, 0.0)):
        w = Parametrized(constraint.project(torch.zeros(1, 1)), constraint)
        optimizer = torch.optim.Adam(w.parameters(), lr=0.1)
        for _ in range(500):
            optimizer.zero_grad()
            (w.y - target).square().sum().backward()
            optimizer.step()
        assert bound - 0.05 < w.y.item() < bound


def test_right_inverse_says_when_a_member_is_too_near_to_the_bound():
    one = torch.eye(6, dtype=torch.float64)
    above = torch.randn(6, 6, dtype=torch.float64).triu(1)
    for constraint, near in ((Schur(), (1 - 1e-12) * one), (Hurwitz(), -1e-12 * one)):
        assert bool(constraint.contains(near + above))
        with pytest.raises(
            ConstraintViolation, match="too near to its bound, or too far from normal"
        ):
            constraint.right_inverse(near + above)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_member_far_from_normal_is_refused_and_the_remedy_is_one(dtype):
    """In single precision x exists in double, and would give another y after rounding."""
    n = 64
    a = torch.diag(torch.linspace(-0.9, 0.9, n)) + 10 * torch.randn(n, n).triu(1)
    a, one = a.to(dtype), torch.eye(n, dtype=dtype)
    size = torch.linalg.matrix_norm(a, 2)
    for constraint, far, near in (
        (Schur(), a, a / size),
        (Hurwitz(), a - 0.1 * size * one, a - 0.1 * size * one - size * one),
    ):
        assert bool(constraint.contains(far))
        with pytest.raises(ConstraintViolation, match="largest singular value"):
            constraint.right_inverse(far)
        y = constraint(constraint.right_inverse(near))
        assert torch.allclose(y, near, rtol=0, atol=1e-5 * float(size))


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), "1"])
def test_a_radius_that_makes_no_set_is_refused(value):
    with pytest.raises(OptionError, match="expected a positive number"):
        Schur(value)


def test_an_alpha_that_makes_no_set_is_refused():
    with pytest.raises(OptionError, match="expected a finite number"):
        Hurwitz(float("nan"))
