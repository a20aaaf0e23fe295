"""The sphere: starts, drift of the norm, precision, and the leading eigenvector."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from constrainedparams import Parametrized, Sphere, register_constrained_parameter
from constrainedparams.errors import ConstraintViolation, OptionError, ShapeError


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan, math.inf, None, [1.0, 2.0]])
def test_a_radius_that_makes_no_sphere_is_refused(radius):
    with pytest.raises(OptionError, match="expected a positive, finite number"):
        Sphere(radius)


def test_vectors_without_entries_are_refused_and_batches_without_vectors_are_not():
    with pytest.raises(ShapeError, match="at least one number in each vector"):
        Sphere()(torch.zeros(2, 0))
    assert Sphere()(torch.zeros(0, 2)).shape == (0, 2)


def test_a_point_off_the_sphere_is_refused_with_its_distance():
    with pytest.raises(ConstraintViolation, match=r"0\.5 away from Sphere\(\)"):
        Sphere().right_inverse(torch.tensor([1.5, 0.0]))


@pytest.mark.parametrize("n", [3, 1000, 1_000_000])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_f_is_on_the_sphere_to_the_tolerance_at_any_length(n, dtype):
    for radius in (1.0, 100.0):
        y = Sphere(radius)(torch.randn(n, dtype=torch.float32).to(dtype))
        assert bool(Sphere(radius).contains(y))
        assert not bool(Sphere(radius).contains(1.1 * y))
        exact = np.sqrt((y.double().numpy() ** 2).sum())
        assert exact == pytest.approx(radius, rel=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gradients_are_finite_right_after_registration(dtype):
    layer = nn.Conv2d(3, 4, 2).to(dtype)
    register_constrained_parameter(layer, "weight", Sphere(2.0, dim=(1, 2, 3)))
    norms = layer.weight.detach().float().flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.full((4,), 2.0), rtol=2 * torch.finfo(dtype).eps)
    zero = register_constrained_parameter(nn.Linear(4, 4).to(dtype), "weight", Sphere())
    nn.init.zeros_(zero._weight_unconstrained)
    assert zero.weight.tolist() == [[0.5] * 4] * 4
    for module in (layer, zero):
        x = module._weight_unconstrained
        (first,) = torch.autograd.grad(module.weight.float().pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.float().square().sum(), x)
        assert bool(torch.isfinite(first).all()) and bool(torch.isfinite(second).all())


@pytest.mark.parametrize("retracting", [False, True])
def test_noise_makes_the_norm_of_x_grow_and_retract_takes_it_back(retracting):
    x, turns = Sphere().sample((100,), dtype=torch.float64), []
    for _ in range(300):
        leaf = x.clone().requires_grad_()
        y = Sphere()(leaf)
        y.backward(torch.randn(100, dtype=torch.float64))
        x = x - 0.1 * leaf.grad
        turns.append(float((Sphere()(x) - y.detach()).norm()))
        if retracting:
            moved, _ = Sphere().retract(x)
            assert torch.allclose(Sphere()(moved), Sphere()(x), atol=1e-15)
            x = moved
    shrunk = np.mean(turns[-20:]) / np.mean(turns[:1])
    assert (0.8 < shrunk < 1.25) if retracting else (shrunk < 0.4)
    assert (float(x.norm()) == pytest.approx(1)) if retracting else (float(x.norm()) > 3)


def test_samples_are_uniform():
    y = Sphere().sample((20000, 3), dtype=torch.float64)
    # Archimedes: each coordinate of a uniform point of the 2-sphere is uniform on [-1, 1].
    quantiles = torch.quantile(y, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), dim=0)
    expected = torch.tensor([-0.8, 0.0, 0.8], dtype=torch.float64).unsqueeze(1)
    assert float((quantiles - expected).abs().max()) < 0.03


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_the_leading_eigenvector_maximises_the_rayleigh_quotient(dtype):
    A = torch.randn(12, 12, dtype=dtype)
    A = A + A.mH
    values, vectors = np.linalg.eigh(A.numpy())
    w = Parametrized(torch.randn(12, dtype=dtype), Sphere())
    optimizer = torch.optim.SGD(w.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        loss = -torch.vdot(w.y, A @ w.y).real
        loss.backward()
        optimizer.step()
    assert -loss.item() == pytest.approx(values[-1], rel=1e-10)
    assert abs(np.vdot(vectors[:, -1], w.y.detach().numpy())) == pytest.approx(1, abs=1e-10)
