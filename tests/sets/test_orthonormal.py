"""Rotations, Stiefel matrices and subspaces against SciPy, closed forms and solved problems."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from scipy.linalg import subspace_angles
from scipy.spatial.transform import Rotation

from constrainedparams import Grassmann, Orthogonal, Parametrized, SpecialOrthogonal, Stiefel
from constrainedparams.errors import ConstraintViolation, DtypeError, OptionError, ShapeError

SETS = [SpecialOrthogonal, Stiefel, Grassmann]
double = {"dtype": torch.float64}


def skew(x):
    return np.tril(x, -1) - np.tril(x, -1).T


def spread(n, dtype):
    """A Hermitian matrix with eigenvalues 1 ... n in a random basis."""
    q = torch.linalg.qr(torch.randn(n, n, dtype=dtype))[0]
    return (q * torch.arange(1.0, n + 1, **double)) @ q.mH


# rotations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_a_rotation_is_the_base_times_the_exponential_or_cayley_map_of_scipy(scale):
    base = torch.from_numpy(scipy.stats.special_ortho_group.rvs(5, random_state=0))
    x = scale * torch.randn(5, 5, **double)
    s, one = skew(x.numpy()), np.eye(5)
    exp = base.numpy() @ scipy.linalg.expm(s)
    cayley = base.numpy() @ scipy.linalg.solve(one - s / 2, one + s / 2)
    assert np.abs(SpecialOrthogonal()(x, base=base).numpy() - exp).max() < 1e-12
    assert np.abs(SpecialOrthogonal("cayley")(x, base=base).numpy() - cayley).max() < 1e-12


@pytest.mark.parametrize("name", ["exp", "cayley", "householder"])
@pytest.mark.parametrize("n", [1, 2, 3, 32])
def test_the_determinant_is_one_for_every_x_and_after_every_retraction(name, n):
    constraint = SpecialOrthogonal(name)
    x, state = constraint.right_inverse(constraint.sample((n, n)))
    for scale in (0.01, 1.0, 100.0):
        for _ in range(100):
            x, state = constraint.retract(scale * torch.randn(n, n), **state)
        y = constraint(x, **state)
        assert np.linalg.det(y.double().numpy()) == pytest.approx(1.0, abs=1e-5)
        assert bool(constraint.contains(y))


def test_the_nearest_rotation_is_that_of_scipy():
    for seed in range(20):
        y = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), **double)
        # The rotation C with the least sum of |y e_i - C e_i|^2.
        found = Rotation.align_vectors(y.numpy().T, np.eye(3))[0].as_matrix()
        for size in (1e-30, 1.0, 1e30):
            assert np.abs(SpecialOrthogonal().project(size * y).numpy() - found).max() < 1e-10


@pytest.mark.parametrize("n", [2, 3, 6])
def test_no_rotation_is_nearer_than_the_projection(n):
    y = torch.randn(n, n, **double)
    y[0] *= -torch.linalg.det(y).sign()  # the polar factor is a reflection
    best = SpecialOrthogonal().project(y).numpy()
    assert np.linalg.det(best) == pytest.approx(1.0)
    others = scipy.stats.special_ortho_group.rvs(n, size=2000, random_state=1)
    near = best @ scipy.linalg.expm(1e-3 * skew(np.random.default_rng(0).normal(size=(n, n))))
    distances = np.linalg.norm(np.concatenate((others, near[None])) - y.numpy(), axis=(1, 2))
    assert np.linalg.norm(best - y.numpy()) < distances.min()


def test_a_reflection_is_two_away_from_the_rotations():
    y = torch.from_numpy(scipy.stats.ortho_group.rvs(4, random_state=0))
    y[0] *= -torch.linalg.det(y).sign()
    nearest = SpecialOrthogonal().project(y)
    assert float(torch.linalg.matrix_norm(y - nearest)) == pytest.approx(2.0)
    assert float(SpecialOrthogonal().residual(y)) == pytest.approx(2.0)
    with pytest.raises(ConstraintViolation, match=r"2 away from SpecialOrthogonal\(\)") as caught:
        SpecialOrthogonal().right_inverse(y)
    remedy = eval(str(caught.value).split("`")[1], {**globals(), "value": y})
    assert torch.equal(remedy, nearest)


def test_a_tiny_and_a_huge_matrix_have_a_determinant_too():
    y = SpecialOrthogonal().sample((200, 200)).double()
    assert float(SpecialOrthogonal().residual(1e-3 * y)) < 2 * 200**0.5
    y[0] *= -1
    for size in (1e-3, 1e3):
        with_det, without = (c.residual(size * y) for c in (SpecialOrthogonal(), Orthogonal()))
        assert float(with_det - without) == pytest.approx(2.0)


def test_rotations_are_square_and_real():
    with pytest.raises(ShapeError, match=r"\(3, 2\); a rotation is square\. .* use Orthogonal\(\)"):
        SpecialOrthogonal()(torch.zeros(3, 2))
    with pytest.raises(DtypeError, match=r"complex64; .* For unitary matrices use Orthogonal\(\)"):
        SpecialOrthogonal()(torch.zeros(3, 3, dtype=torch.complex64))
    assert bool(Orthogonal().contains(Orthogonal()(torch.ones(3, 3, dtype=torch.complex64))))


def test_samples_of_rotations_have_the_moments_of_haar_measure():
    y = SpecialOrthogonal().sample((40_000, 3, 3), generator=torch.Generator().manual_seed(0))
    assert float((torch.linalg.det(y) - 1).abs().max()) < 1e-5
    trace = y.diagonal(dim1=-2, dim2=-1).sum(-1)
    # E tr^p counts the invariants in the p-th tensor power of R^3: 0, 1, 1 (the determinant: 0 on
    # all of O(3)), 3.
    for power, moment in enumerate((0, 1, 1, 3), start=1):
        assert float((trace**power).mean()) == pytest.approx(moment, abs=0.15)


@pytest.mark.parametrize("name", ["exp", "cayley", "householder"])
def test_procrustes_finds_the_rotation_of_kabsch(minimize, name):
    points = torch.randn(40, 3, **double)
    y = torch.from_numpy(Rotation.random(random_state=0).as_matrix())
    mirrored = points @ torch.diag(torch.tensor([1.0, 1.0, -0.2], **double))
    for source in (points, mirrored):  # of the mirrored points the best orthogonal map reflects
        target = points @ y.mT + 0.1 * torch.randn(40, 3, **double)
        expected = Rotation.align_vectors(target.numpy(), source.numpy())[0].as_matrix()
        found = minimize(
            SpecialOrthogonal(name),
            torch.eye(3, **double),
            lambda r, a=source, b=target: (a @ r.mT - b).square().sum(),
        )
        assert np.abs(found.numpy() - expected).max() < 1e-6
    assert np.linalg.det(scipy.linalg.polar((target.mT @ source).numpy())[0]) < 0


def test_the_mean_of_rotations_is_that_of_scipy(minimize):
    rotations = Rotation.random(12, random_state=3) * Rotation.identity()
    samples = torch.from_numpy(rotations.as_matrix())
    found = minimize(SpecialOrthogonal(), samples[0], lambda y: (y - samples).square().sum())
    assert np.abs(found.numpy() - rotations.mean().as_matrix()).max() < 1e-6


# Stiefel ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exp", "cayley"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_stiefel_is_the_tall_half_of_orthogonal(name, dtype):
    x = torch.randn(5, 2, dtype=dtype)
    base = Stiefel().sample((5, 2), dtype=dtype)
    assert torch.equal(Stiefel(name)(x, base=base), Orthogonal(name)(x, base=base))
    block = x.numpy()
    a = np.zeros((5, 5), dtype=block.dtype)
    a[:, :2] = np.tril(block, -1)
    a = (
        a
        - a.conj().T
        + np.diag(np.r_[1j * np.diag(block).imag, 0, 0, 0] if dtype.is_complex else np.zeros(5))
    )
    dense = {
        "exp": scipy.linalg.expm(a),
        "cayley": np.linalg.solve(np.eye(5) - a / 2, np.eye(5) + a / 2),
    }
    assert np.abs(Stiefel(name)(x).numpy() - dense[name][:, :2]).max() < 1e-13


@pytest.mark.parametrize("cls", [Stiefel, Grassmann])
def test_wide_matrices_are_refused_and_the_remedy_works(cls):
    with pytest.raises(ShapeError, match=r"\(2, 5\); expected at least as many rows") as caught:
        cls().sample((2, 5))
    view = str(caught.value).split('view="')[1].split('"')[0]
    y = cls(view=view).sample((2, 5))
    assert torch.allclose(y @ y.mT, torch.eye(2), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_projections_are_the_polar_factor_of_scipy_down_to_small_singular_values(dtype):
    u, v = Stiefel().sample((6, 3), dtype=dtype), Stiefel().sample((3, 3), dtype=dtype)
    for smallest in (1.0, 1e-3, 1e-6):
        y = (u * torch.tensor([1.0, 0.5, smallest], **double)) @ v.mH
        polar = scipy.linalg.polar(y.numpy())[0]
        for constraint in (Stiefel(), Grassmann()):
            assert np.abs(constraint.project(y).numpy() - polar).max() < 1e-14 / smallest


@pytest.mark.parametrize("name", ["exp", "cayley", "householder"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_stiefel_finds_eigenvectors_in_their_order(minimize, name, dtype):
    # Brockett 1991: with weights 3 > 2 > 1 the maximum of tr(y^H a y diag(w)) is at eigenvectors
    # in the order of their eigenvalues.
    a, weights = spread(8, dtype), torch.tensor([3.0, 2.0, 1.0], **double)
    start = Stiefel().sample((8, 3), dtype=dtype)
    y = minimize(Stiefel(name), start, lambda y: -((y.conj() * (a @ y)).real.sum(0) @ weights), 400)
    exact = np.linalg.eigh(a.numpy())[1][:, :-4:-1]
    assert np.abs(np.abs(np.sum(exact.conj() * y.numpy(), axis=0)) - 1).max() < 1e-8


# subspaces --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(5, 2), (4, 3), (3, 1), (7, 4)], ids=str)
@pytest.mark.parametrize("name", ["exp", "cayley"])
def test_principal_angles_are_the_singular_values_of_x(name, shape, dtype):
    k = shape[1]
    base, x = Grassmann().sample(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    x = x / (x[k:].abs().square().sum().sqrt())
    for t in (1e-4, 0.5, 1.5):
        sigma = np.zeros(k)
        values = np.linalg.svd(t * x[k:].numpy(), compute_uv=False)
        sigma[: len(values)] = values
        expected = sigma if name == "exp" else 2 * np.arctan(sigma / 2)
        y, b = Grassmann(name)(t * x, base=base).numpy(), base.numpy()
        assert np.abs(subspace_angles(b, y) - expected).max() < 1e-7  # SciPy's own is 2e-8 at 0
        cosines = np.linalg.svd(b.conj().T @ y, compute_uv=False)
        sines = np.linalg.svd(y - b @ (b.conj().T @ y), compute_uv=False)
        assert np.abs(cosines - np.cos(expected)[::-1]).max() < 1e-13
        assert np.abs(sines - np.sin(expected)).max() < 1e-13
        # parallel to base: of all bases of its span the one nearest to base
        nearest = scipy.linalg.polar(y @ y.conj().T @ b)[0]
        assert np.abs(nearest - y).max() < 1e-10


@pytest.mark.parametrize("name", ["exp", "cayley"])
def test_the_top_block_of_x_is_not_read(name):
    x = torch.randn(5, 2, **double, requires_grad=True)
    y = Grassmann(name)(x)
    other = torch.cat((torch.randn(2, 2, **double), x[2:]))
    assert torch.equal(Grassmann(name)(other), y)
    y.sum().backward()
    assert not x.grad[:2].any()
    assert bool(x.grad[2:].all())


def test_the_residual_of_a_subspace_does_not_depend_on_its_basis():
    y = Grassmann().sample((6, 3), dtype=torch.complex128)
    off = y + 1e-3 * torch.randn(6, 3, dtype=torch.complex128)
    for basis in torch.from_numpy(scipy.stats.unitary_group.rvs(3, size=5, random_state=0)):
        assert bool(Grassmann().contains(y @ basis))
        assert float(Grassmann().residual(off @ basis)) == pytest.approx(
            float(Grassmann().residual(off)), rel=1e-10
        )
        x, state = Grassmann().right_inverse(y @ basis)
        assert float((Grassmann()(x, **state) - y @ basis).abs().max()) < 1e-14


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_projection_keeps_the_span(condition):
    y = torch.randn(6, 2, **double) @ torch.tensor([[1.0, 1.0], [0.0, 1 / condition]], **double)
    angles = subspace_angles(y.numpy(), Grassmann().project(y).numpy())
    assert angles.max() < 1e-14 * condition


@pytest.mark.parametrize("name", ["exp", "cayley"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_the_largest_trace_is_at_the_leading_eigenvectors(minimize, name, dtype):
    a = spread(10, dtype)
    values, vectors = np.linalg.eigh(a.numpy())
    start = torch.from_numpy(vectors[:, :3]) + 0.1 * Grassmann().sample((10, 3), dtype=dtype)
    y = minimize(Grassmann(name), start, lambda y: -(y.conj() * (a @ y)).real.sum())
    # from near the subspace of the smallest eigenvalues: nearly a right angle in every direction
    assert subspace_angles(vectors[:, :3], start.numpy()).max() < 0.2
    assert subspace_angles(vectors[:, -3:], y.numpy()).max() < 1e-6
    assert float((y.conj() * (a @ y)).real.sum()) == pytest.approx(values[-3:].sum(), rel=1e-12)


def test_the_whole_space_is_one_point():
    base = Grassmann().sample((3, 3), **double)
    x = torch.randn(3, 3, **double, requires_grad=True)
    y = Grassmann()(x, base=base)
    y.sum().backward()
    assert torch.allclose(y, base, atol=1e-15)
    assert not x.grad.any()
    assert Grassmann().dimension((3, 3)) == 0


# all three --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", SETS)
def test_derivatives_stay_right_at_large_gradients_and_far_from_the_base(cls):
    shape = (4, 4) if cls is SpecialOrthogonal else (5, 2)
    for name in ("exp", "cayley"):
        constraint = cls(name)
        base = constraint.sample(shape, **double)
        x = (4 * torch.randn(shape, **double)).requires_grad_()
        assert torch.autograd.gradcheck(lambda t, c=constraint, b=base: c(t, base=b), (x,))
        assert torch.autograd.gradgradcheck(lambda t, c=constraint, b=base: c(t, base=b), (x,))


@pytest.mark.parametrize("cls", SETS)
@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0)], ids=str)
def test_empty_matrices_are_members(cls, shape):
    y = cls()(torch.zeros(shape))
    assert y.shape == shape
    assert bool(cls().contains(cls().project(cls().sample(shape))).all())


@pytest.mark.parametrize("cls", SETS)
def test_an_unknown_map_is_refused(cls):
    with pytest.raises(OptionError, match="map='svd': expected one of 'exp', 'cayley'"):
        cls("svd")


@pytest.mark.parametrize(
    ("cls", "name"),
    [(SpecialOrthogonal, "polar"), (Grassmann, "polar"), (Grassmann, "householder")],
)
def test_a_map_that_a_set_cannot_have_is_refused_with_the_reason_and_another_way(cls, name):
    known = ", ".join(map(repr, cls.known))
    with pytest.raises(OptionError, match=rf"map='{name}': expected one of {known}\. ") as e:
        cls(name)
    remedy = str(e.value).split()[-4 if cls is SpecialOrthogonal else -1].rstrip(".")
    assert eval(remedy).map == name


# the polar map ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 2), (4, 4), (2, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_the_polar_map_is_that_of_scipy_and_has_no_base(shape, dtype):
    x = torch.randn(shape, dtype=dtype)
    side = "left" if shape[0] < shape[1] else "right"
    y = Orthogonal("polar")(x)
    assert np.abs(y.resolve_conj().numpy() - scipy.linalg.polar(x.numpy(), side)[0]).max() < 1e-13
    again = Orthogonal("polar").right_inverse(y)
    assert isinstance(again, torch.Tensor)
    assert torch.allclose(again, y, atol=1e-15)
    moved, state = Orthogonal("polar").retract(x)
    assert state == {}
    assert torch.allclose(moved, y, atol=1e-15)


def test_the_polar_map_reaches_both_components_and_exp_keeps_to_one():
    x = torch.diag(torch.tensor([1.0, 1.0, -0.1]))
    assert float(torch.linalg.det(Orthogonal("polar")(x))) == pytest.approx(-1.0)
    assert float(torch.linalg.det(Orthogonal("polar")(x.abs()))) == pytest.approx(1.0)
    assert "component" not in Orthogonal("polar").onto
    assert "component" in Orthogonal().onto


@pytest.mark.parametrize(
    ("name", "shape", "turns"),
    [
        ("cayley", (64, 64), 5000),  # whose solve errs to one side
        ("exp", (64, 64), 500),
        ("exp", (96, 32), 500),
        ("cayley", (96, 32), 500),
        ("polar", (96, 32), 500),
    ],
)
def test_thousands_of_retractions_do_not_drift(name, shape, turns):
    """In single precision; a peer with the same recipe is off the set after 216 to 1,322 steps."""
    constraint = Orthogonal(name)
    found = constraint.right_inverse(constraint.sample(shape))
    x, state = found if isinstance(found, tuple) else (found, {})
    step = 1e-2 * torch.randn(shape)
    worst = 0.0
    for turn in range(turns):
        x, state = constraint.retract(x + (step if turn % 2 else -0.9 * step), **state)
        if turn % 250 == 249:
            worst = max(worst, float(constraint.residual(constraint(x, **state))))
    assert worst < 3e-6


@pytest.mark.parametrize("cls", SETS)
def test_an_interval_of_learning_keeps_the_weight_on_the_set(cls):
    shape = (6, 6) if cls is SpecialOrthogonal else (6, 2)
    p = Parametrized(torch.randn(shape), cls())
    optimizer = torch.optim.Adam(p.parameters(), lr=0.1)
    target = torch.randn(shape)
    for _ in range(50):
        optimizer.zero_grad()
        (p.y - target).square().sum().backward()
        optimizer.step()
        assert bool(cls().contains(p.y.detach()))
