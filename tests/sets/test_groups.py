"""Determinant 1 and symplectic matrices: their definitions, elements without logarithm, flows."""

import numpy as np
import pytest
import scipy.linalg
import torch

from constrainedparams import Parametrized, SpecialLinear, Symplectic
from constrainedparams.errors import ShapeError


def j(n):
    return np.kron(np.array([[0.0, 1.0], [-1.0, 0.0]]), np.eye(n))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_determinants_are_one(n, dtype):
    y = SpecialLinear()(torch.randn(6, n, n, dtype=dtype))
    assert np.allclose(np.linalg.det(y.numpy()), 1, rtol=1e-12 * 10**n if n < 10 else 1e-6)


@pytest.mark.parametrize("scale", [10.0, 1e4])
def test_determinants_of_large_x_are_one_to_the_rounding_of_entries(scale):
    y = SpecialLinear()(scale * torch.randn(20, 6, 6))
    assert bool(torch.isfinite(y).all())
    condition = torch.linalg.cond(y.double(), "fro")
    log = torch.linalg.slogdet(y.double())[1].abs()
    assert bool((log < 1e-6 * condition).all())


@pytest.mark.parametrize("n", [2, 5, 12])
def test_every_matrix_with_determinant_one_is_reached(n):
    y = torch.randn(n, n, dtype=torch.float64)
    y = y * torch.linalg.det(y).abs() ** (-1 / n)
    y = torch.cat((torch.linalg.det(y).sgn() * y[:, :1], y[:, 1:]), dim=1)
    x, state = SpecialLinear().right_inverse(y)
    assert torch.allclose(SpecialLinear()(x, **state), y, atol=1e-12)


def test_project_divides_by_the_root_of_the_determinant():
    y = torch.randn(3, 3, dtype=torch.float64)
    y = y * torch.linalg.det(y).sgn()
    expected = y / float(torch.linalg.det(y)) ** (1 / 3)
    assert torch.allclose(SpecialLinear().project(y), expected, atol=1e-14)


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("n", [1, 2, 8])
def test_the_symplectic_form_is_kept(n, scale):
    y = Symplectic()(scale * torch.randn(2 * n, 2 * n, dtype=torch.float64)).numpy()
    gap = np.linalg.norm(y.T @ j(n) @ y - j(n))
    assert gap < 1e-14 * np.linalg.norm(y) ** 2


@pytest.mark.parametrize("n", [1, 2, 6])
def test_every_symplectic_matrix_is_reached(n):
    """Products of exponentials of Hamiltonian matrices: one alone does not reach diag(-a, -1/a)."""
    y = np.eye(2 * n)
    for _ in range(3):
        h = np.random.default_rng(n).normal(size=(2 * n, 2 * n))
        y = y @ scipy.linalg.expm(0.3 * j(n) @ (h + h.T))
    y[:, [0, n]] = -y[:, [0, n]]  # a half turn of the first pair
    y = torch.from_numpy(y)
    x, state = Symplectic().right_inverse(y)
    found = Symplectic()(x, **state)
    assert float((found - y).norm() / y.norm()) < 1e-13


def test_the_map_is_the_exponential_of_asinh():
    x = torch.randn(4, 4, dtype=torch.float64)
    a, b, c, d = x[:2, :2], x[:2, 2:], x[2:, :2], x[2:, 2:]
    p, q = (a - d + (a - d).T) / 4, (b + c + (b + c).T) / 4
    s = torch.cat((torch.cat((p, q), 1), torch.cat((q, -p), 1)))
    e, u = np.linalg.eigh(s.numpy())
    turn = Symplectic()(x - s)
    expected = turn.numpy() @ (u * np.exp(np.arcsinh(e))) @ u.T
    assert np.allclose(Symplectic()(x).numpy(), expected, atol=1e-13)


def test_the_flow_of_an_oscillator_is_learned_from_its_states():
    """y(t) = exp(t J H) for H = diag(k, 1/m): least squares over pairs of states."""
    flow = scipy.linalg.expm(0.5 * j(1) @ np.diag([2.0, 0.5]))
    states = torch.randn(2, 30, dtype=torch.float64)
    after = torch.from_numpy(flow) @ states
    w = Parametrized(torch.eye(2, dtype=torch.float64), Symplectic())
    optimizer = torch.optim.LBFGS(w.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (w.y @ states - after).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert np.allclose(w.y.detach().numpy(), flow, atol=1e-5)


def test_odd_sizes_are_refused():
    with pytest.raises(ShapeError, match="even size"):
        Symplectic()(torch.zeros(3, 3))
