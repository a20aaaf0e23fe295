"""U(n), SU(n) and the rotations of space against SciPy, and what tells them from Orthogonal."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from scipy.spatial.transform import Rotation

from constrainedparams import (
    Orthogonal,
    Parametrized,
    Rotation3D,
    SpecialOrthogonal,
    SpecialUnitary,
    Unitary,
)
from constrainedparams.errors import ConstraintViolation, DtypeError, OptionError, ShapeError

double = {"dtype": torch.float64}
complex_ = {"dtype": torch.complex128}
MAPS = ["6d", "quaternion"]


# unitary matrices -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exp", "cayley", "polar"])
def test_unitary_is_the_square_part_of_orthogonal(name):
    x, base = torch.randn(3, 3, **complex_), Unitary().sample((3, 3), **complex_)
    state = {} if name == "polar" else {"base": base}
    assert torch.equal(Unitary(name)(x, **state), Orthogonal(name)(x, **state))
    with pytest.raises(ShapeError, match=r"unitary matrix is square\. .* use Orthogonal\(\)"):
        Unitary(name)(torch.zeros(3, 2, **complex_))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_a_special_unitary_matrix_is_the_exponential_of_a_traceless_one(scale):
    x, base = scale * torch.randn(4, 4, **complex_), SpecialUnitary().sample((4, 4), **complex_)
    lower = np.tril(x.numpy(), -1)
    s = lower - lower.conj().T + 1j * np.diag(np.diag(x.numpy()).imag)
    s = s - np.trace(s) / 4 * np.eye(4)
    y = SpecialUnitary()(x, base=base).numpy()
    assert np.abs(y - base.numpy() @ scipy.linalg.expm(s)).max() < 1e-13 * (1 + scale)
    assert abs(np.linalg.det(y) - 1) < 1e-13


def test_of_a_real_tensor_special_unitary_is_special_orthogonal():
    x, base = torch.randn(4, 4, **double), SpecialOrthogonal().sample((4, 4), **double)
    for one, other in ((SpecialUnitary(), SpecialOrthogonal()),):
        assert torch.equal(one(x, base=base), other(x, base=base))
        assert torch.equal(one.project(x), other.project(x))
        assert one.dimension((4, 4)) == other.dimension((4, 4)) == 6
    assert SpecialUnitary().dimension((4, 4), torch.complex64) == 15


def test_no_special_unitary_matrix_is_nearer_to_a_unitary_one():
    near = scipy.stats.unitary_group.rvs(3, random_state=2)
    best = SpecialUnitary().project(torch.from_numpy(near)).numpy()
    gap = float(SpecialUnitary().residual(torch.from_numpy(near)))
    assert np.linalg.norm(best - near) == pytest.approx(gap, abs=1e-12)
    draws = scipy.stats.unitary_group.rvs(3, size=4000, random_state=1)
    draws = draws / np.linalg.det(draws)[:, None, None] ** (1 / 3)
    turn = np.exp(2j * np.pi / 3)
    for others in (draws, best[None] * turn, best[None] / turn):
        assert np.linalg.norm(others - near, axis=(1, 2)).min() > gap


def test_the_determinant_stays_one_in_single_precision_over_retractions():
    constraint = SpecialUnitary()
    x, state = constraint.right_inverse(constraint.sample((8, 8), dtype=torch.complex64))
    for scale in (0.01, 1.0, 100.0):
        for _ in range(100):
            x, state = constraint.retract(scale * torch.randn(8, 8, dtype=torch.complex64), **state)
        y = constraint(x, **state)
        assert abs(np.linalg.det(y.to(torch.complex128).numpy()) - 1) < 2e-6
        assert bool(constraint.contains(y))


def test_samples_have_the_moments_of_haar_measure():
    y = SpecialUnitary().sample(
        (40_000, 2, 2), dtype=torch.complex64, generator=torch.Generator().manual_seed(0)
    )
    trace = y.diagonal(dim1=-2, dim2=-1).sum(-1).real  # real for SU(2)
    # E tr^p counts the invariants in the p-th tensor power of C^2: 0, 1, 0, 2 (Catalan numbers)
    for power, moment in enumerate((0, 1, 0, 2), start=1):
        assert float((trace**power).mean()) == pytest.approx(moment, abs=0.05)


@pytest.mark.parametrize("name", ["cayley", "polar"])
def test_maps_that_do_not_keep_the_determinant_are_refused_with_the_reason(name):
    with pytest.raises(OptionError, match=r"expected one of 'exp'\. .* Unitary has it"):
        SpecialUnitary(name)
    assert Unitary(name).map == name


@pytest.mark.parametrize("cls", [Unitary, SpecialUnitary])
def test_synthesis_finds_a_gate(minimize, cls):
    """A unitary from its action: min |U S - T|^2 over states S (Procrustes)."""
    target = torch.from_numpy(scipy.stats.unitary_group.rvs(3, random_state=5))
    target = target / torch.linalg.det(target) ** (1 / 3)
    states = torch.randn(3, 6, **complex_)
    found = minimize(
        cls(), torch.eye(3, **complex_), lambda u: ((u - target) @ states).abs().square().sum()
    )
    assert float((found - target).abs().max()) < 1e-6


# rotations of space -----------------------------------------------------------------------------


def test_a_quaternion_gives_the_rotation_of_scipy_and_back():
    q = torch.randn(200, 4, **double)
    scipys = Rotation.from_quat(np.roll(q.numpy(), -1, axis=-1))  # SciPy has the real part last
    y = Rotation3D("quaternion")(q)
    assert np.abs(y.numpy() - scipys.as_matrix()).max() < 1e-14
    back = Rotation3D("quaternion").right_inverse(y)
    unit = q / torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    assert torch.allclose((back * unit).sum(-1).abs(), torch.ones(200, **double), atol=1e-14)
    assert float((torch.linalg.vector_norm(back, dim=-1) - 1).abs().max()) < 1e-15


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, math.pi - 1e-9, math.pi])
@pytest.mark.parametrize("name", MAPS)
def test_the_inverse_is_exact_at_small_angles_and_half_turns(name, angle):
    for axis in np.concatenate((np.eye(3), np.random.default_rng(0).normal(size=(5, 3)))):
        y = torch.from_numpy(Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix())
        constraint = Rotation3D(name)
        x = constraint.right_inverse(y).requires_grad_()
        again = constraint(x)
        assert float((again.detach() - y).abs().max()) < 1e-15
        again.square().sum().backward()
        assert x.grad.isfinite().all()


def test_six_numbers_are_orthonormalised_as_by_a_qr_factorisation():
    x = torch.randn(100, 3, 2, **double)
    q, r = np.linalg.qr(x.numpy())
    q = q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[:, None, :]
    y = Rotation3D()(x).numpy()
    assert np.abs(y[..., :2] - q).max() < 1e-13
    assert np.abs(np.linalg.det(y) - 1).max() < 1e-14


@pytest.mark.parametrize("gap", [0.0, 1e-30, 1e-12, 1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_nearly_parallel_columns_give_a_rotation_and_a_finite_gradient(gap, scale):
    for seed in range(10):
        draw = torch.Generator().manual_seed(seed)
        a, b = torch.randn(2, 3, generator=draw)
        x = (scale * torch.stack((a, -2 * a + gap * b), dim=-1)).requires_grad_()
        y = Rotation3D()(x)
        assert bool(Rotation3D().contains(y.detach()))
        (g,) = torch.autograd.grad(y, x, torch.randn(3, 3, generator=draw))
        assert g.isfinite().all() or scale == 1e-30  # 1/|x| times 1/gap overflows


@pytest.mark.parametrize("name", MAPS)
def test_a_far_rotation_is_found_where_the_exponential_has_to_turn_round(minimize, name):
    """Fit a half turn from the identity, and the mean of rotations (SciPy's) from a far start."""
    rotations = Rotation.random(9, random_state=3)
    samples = torch.from_numpy(rotations.as_matrix())
    start = torch.from_numpy(Rotation.from_rotvec([0, 0, 3.0]).as_matrix())
    found = minimize(Rotation3D(name), start, lambda y: (y - samples).square().sum())
    assert np.abs(found.numpy() - rotations.mean().as_matrix()).max() < 1e-6


@pytest.mark.parametrize("name", MAPS)
def test_the_scale_of_x_changes_nothing_and_retract_takes_it_back(name):
    constraint = Rotation3D(name)
    x = constraint.right_inverse(constraint.sample((5, 3, 3)))
    assert torch.allclose(constraint(1e4 * x), constraint(x), atol=1e-6)
    moved, state = constraint.retract(1e4 * x)
    assert state == {}
    assert torch.allclose(moved, x, atol=1e-6)


@pytest.mark.parametrize("name", MAPS)
def test_a_layer_learns_with_an_x_of_another_shape(name):
    p = Parametrized(torch.randn(4, 3, 3), Rotation3D(name))
    assert p.x.shape == ((4, 3, 2) if name == "6d" else (4, 4))
    optimizer = torch.optim.Adam(p.parameters(), lr=0.1)
    target = Rotation3D().sample((4, 3, 3))
    for _ in range(150):
        optimizer.zero_grad()
        loss = (p.y - target).square().sum()
        loss.backward()
        optimizer.step()
        assert bool(Rotation3D().contains(p.y.detach()).all())
    assert float(loss.detach()) < 1e-2


def test_rotations_of_space_refuse_other_sizes_reflections_and_complex_numbers():
    with pytest.raises(ShapeError, match=r"\(4, 4\); .* use SpecialOrthogonal\(\)"):
        Rotation3D().sample((4, 4))
    with pytest.raises(ShapeError, match=r"x of shape \(3, 3\); expected \(\.\.\., 3, 2\)"):
        Rotation3D()(torch.eye(3))
    with pytest.raises(DtypeError, match=r"use SpecialUnitary\(\)"):
        Rotation3D()(torch.zeros(3, 2, dtype=torch.complex64))
    with pytest.raises(ConstraintViolation, match="2 away"):
        Rotation3D().right_inverse(-torch.eye(3))
    with pytest.raises(OptionError, match="expected one of '6d', 'quaternion'"):
        Rotation3D("euler")
    view = Rotation3D("quaternion", view="(b i) j -> b i j", sizes={"b": 2})
    y = view.sample((6, 3))
    assert view.right_inverse(y).shape == (2, 4)
    assert torch.allclose(view(view.right_inverse(y)), y, atol=1e-6)
