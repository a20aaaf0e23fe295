"""Balls of matrix norms, bounded singular values, given ranks: NumPy's SVD, optima, registration."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from torch import nn

from constrainedparams import (
    BoundedSingularValues,
    FixedRank,
    FullRank,
    LowRank,
    NuclearNormBall,
    Parametrized,
    PositiveSemidefinite,
    SpectralBall,
    SpectralSphere,
    register_constrained_parameter,
)
from constrainedparams.errors import OptionError, ShapeError

double = {"dtype": torch.float64}
WIDE = [torch.float64, torch.complex128]
DTYPES = [torch.float32, torch.float64, torch.complex64]
SHAPES = [(3, 3), (5, 2), (2, 5), (1, 4), (4, 1)]


def singular_values(y):
    return np.linalg.svd(y.detach().numpy().astype(complex), compute_uv=False)


def with_values(values, shape, dtype=torch.float64):
    """A matrix with these singular values."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    u, v = (torch.linalg.qr(torch.randn(n, n, dtype=wide))[0] for n in shape)
    r = len(values)
    return ((u[:, :r] * torch.tensor(values, dtype=torch.float64)) @ v[:, :r].mH).to(dtype)


# the balls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_singular_values_are_bent_into_the_spectral_ball(dtype, shape):
    x = torch.randn(shape, dtype=dtype)
    s = singular_values(x)
    y = SpectralBall(3.0)(x)
    assert np.abs(singular_values(y) - 3 * s / np.sqrt(1 + s**2)).max() < 1e-14
    assert torch.allclose(SpectralBall(3.0).right_inverse(y), x, atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(6, 6), (40, 7), (7, 40)], ids=str)
def test_inside_of_the_spectral_ball_for_every_x(shape, dtype):
    for scale in (1.0, 100.0, 1e6, 1e12):
        y = SpectralBall()(scale * torch.randn(shape, dtype=dtype))
        assert bool(SpectralBall().contains(y))
        assert singular_values(y)[0] < 1


@pytest.mark.parametrize("norm", [0.99, 0.9999, 0.999999])
def test_near_the_boundary_single_precision_comes_back(norm):
    y = with_values([norm, 0.5, 1e-3], (4, 3), torch.float32)
    again = SpectralBall()(SpectralBall().right_inverse(y))
    assert float((again - y).abs().max()) < 4e-7


def test_the_nearest_contraction_is_approached(minimize):
    target = with_values([2.0, 1.5, 0.5], (4, 3))
    clipped = SpectralBall().project(target)
    assert np.abs(singular_values(clipped) - [0.999, 0.999, 0.5]).max() < 1e-14
    start = SpectralBall().sample((4, 3), **double)
    y = minimize(SpectralBall(), start, lambda y: (y - target).square().sum(), steps=30)
    assert np.abs(singular_values(y) - [1, 1, 0.5]).max() < 1e-3


def test_samples_of_the_spectral_ball_are_uniform():
    """Vectors: |y|^m ~ U(0, 1) for y uniform in the ball of R^m."""
    for shape, dtype, m in [
        ((1, 1), torch.float64, 1),
        ((3, 1), torch.float64, 3),
        ((1, 2), torch.complex128, 4),
    ]:
        y = SpectralBall().sample((4000, *shape), dtype=dtype)
        size = torch.linalg.vector_norm(y, dim=(-2, -1)).numpy()
        assert scipy.stats.kstest(size**m, "uniform").pvalue > 1e-3
    # 2 x 2: E |y_11|^2 against rejection sampling from the cube
    cube = torch.rand(200000, 2, 2, **double) * 2 - 1
    kept = cube[torch.linalg.matrix_norm(cube, 2) < 1]
    y = SpectralBall().sample((40000, 2, 2), **double)
    assert float(y[:, 0, 0].square().mean()) == pytest.approx(
        float(kept[:, 0, 0].square().mean()), rel=0.03
    )


def test_an_assignment_to_the_spectral_sphere_is_exact():
    """Where power iteration with old vectors is off by factors."""
    layer = register_constrained_parameter(nn.Linear(30, 30), "weight", SpectralSphere())
    value = with_values([1.0] + [0.999] * 29, (30, 30), torch.float32)
    layer.eval()
    layer.weight = value
    assert torch.allclose(layer.weight, value, atol=1e-6)
    for scale in (1e-30, 1.0, 1e30):
        y = SpectralSphere(2.0)(scale * torch.randn(200, 200))
        assert singular_values(y)[0] == pytest.approx(2.0, rel=1e-5)


def test_the_gradient_on_the_spectral_sphere_is_orthogonal_to_x():
    x = torch.randn(4, 3, **double, requires_grad=True)
    (g,) = torch.autograd.grad(SpectralSphere()(x), x, torch.randn(4, 3, **double))
    assert abs(float((g * x.detach()).sum())) < 1e-13


def test_the_best_direction_on_the_spectral_sphere_is_found(minimize):
    """max <y, A> over the ball of the spectral norm is the nuclear norm of A."""
    a = torch.randn(3, 2, **double)
    start = SpectralSphere().sample((3, 2), **double)
    w = Parametrized(start, SpectralSphere())
    optimizer = torch.optim.SGD(w.parameters(), lr=0.05)
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 0.05 / (1 + step / 20)  # the optimum is an edge
        optimizer.zero_grad()
        (-(w.y * a).sum()).backward()
        optimizer.step()
    assert float((w.y * a).sum().detach()) == pytest.approx(singular_values(a).sum(), rel=0.01)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4)], ids=str)
def test_truncation_by_the_nuclear_norm_is_that_of_numpy(shape, minimize):
    """The nearest matrix of nuclear norm 2: a threshold on the singular values."""
    target = with_values([2.0, 1.2, 0.1], shape)
    threshold = scipy.optimize.brentq(
        lambda t: np.maximum(np.array([2.0, 1.2, 0.1]) - t, 0).sum() - 2, 0, 2
    )
    exact = np.maximum(np.array([2.0, 1.2, 0.1]) - threshold, 0)
    ball = NuclearNormBall(2.0)
    assert np.abs(singular_values(ball.project(target)) - exact).max() < 1e-12
    y = minimize(
        ball, ball.sample(shape, **double), lambda y: (y - target).square().sum(), steps=2000
    )
    assert np.abs(singular_values(y) - exact).max() < 1e-4
    assert bool(ball.contains(y))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_the_nuclear_norm_is_that_of_the_formula(dtype):
    """The least of (|U|^2 + |V|^2)/2 over y = U V^H is reached by a balanced split."""
    y = with_values([0.5, 0.25], (3, 2), dtype)
    x = NuclearNormBall().right_inverse(y)
    assert float(torch.sin(torch.linalg.matrix_norm(x)) ** 2) == pytest.approx(0.75)
    assert torch.allclose(NuclearNormBall()(x), y, atol=1e-14)


# bounded singular values -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_values_stay_between_their_bounds_for_every_x(shape, dtype):
    constraint = BoundedSingularValues(0.9, 1.1)
    start = constraint.sample(shape, dtype=dtype)
    _, state = constraint.right_inverse(start)
    for scale in (0.0, 1.0, 100.0, 1e5):
        y = constraint(scale * torch.randn(shape, dtype=dtype), **state)
        s = singular_values(y)
        assert s.min() > 0.9 and s.max() < 1.1
        assert bool(constraint.contains(y))


def test_any_matrix_with_bounded_singular_values_is_reached(minimize):
    constraint = BoundedSingularValues(0.5, 2.0)
    outside = with_values([3.0, 1.0, 0.1], (4, 3))
    assert (
        np.abs(singular_values(constraint.project(outside)) - [1.9985, 1.0, 0.5015]).max() < 1e-12
    )
    target = with_values([1.9, 1.0, 0.6], (4, 3))
    start = constraint.sample((4, 3), **double)
    y = minimize(constraint, start, lambda y: (y - target).square().sum())
    assert torch.allclose(y, target, atol=1e-5)


# given ranks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 4), (3, 6)], ids=str)
@pytest.mark.parametrize("constraint", [LowRank(2), FixedRank(2)], ids=repr)
def test_the_best_approximation_is_the_truncated_svd(constraint, shape, minimize):
    """Eckart and Young, also from a start at 0."""
    target = with_values([3.0, 2.0, 1.0], shape)
    u, s, vh = np.linalg.svd(target.numpy(), full_matrices=False)
    best = (u[:, :2] * s[:2]) @ vh[:2]
    assert np.abs(constraint.project(target).numpy() - best).max() < 1e-13
    starts = [constraint.sample(shape, **double)]
    if isinstance(constraint, LowRank):
        starts.append(torch.zeros(shape, **double))
    for start in starts:
        y = minimize(constraint, start, lambda y: (y - target).square().sum(), steps=1000)
        assert np.abs(y.numpy() - best).max() < 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("constraint", [LowRank(2), FixedRank(2), FullRank()], ids=repr)
def test_the_rank_is_kept_for_every_x(constraint, dtype):
    for shape in ((6, 4), (3, 9), (2, 2)):
        _, state = constraint.right_inverse(constraint.sample(shape, dtype=dtype))
        for scale in (1e-3, 1.0, 100.0, 1e4):
            y = constraint(scale * torch.randn(shape, dtype=dtype), **state)
            assert bool(constraint.contains(y))
        y = constraint(torch.randn(shape, dtype=dtype), **state)
        expected = min(shape) if isinstance(constraint, FullRank) else 2
        assert np.linalg.matrix_rank(y.numpy(), tol=1e-5 * singular_values(y)[0]) == expected


def test_entries_of_x_beyond_the_dimension_are_not_read():
    constraint = LowRank(2)
    x, state = constraint.right_inverse(constraint.sample((6, 5), **double))
    leaf = (x + 0.1).requires_grad_()
    (g,) = torch.autograd.grad(constraint(leaf, **state), leaf, torch.randn(6, 5, **double))
    assert int((g != 0).sum()) == constraint.dimension((6, 5)) == 2 * (6 + 5 - 2)


# in layers ---------------------------------------------------------------------------------------


def test_a_packed_x_is_registered_trained_and_loaded():
    def model():
        layer = nn.Linear(3, 5)
        return register_constrained_parameter(layer, "weight", NuclearNormBall(0.5))

    layer, other = model(), model()
    assert layer._weight_unconstrained.shape == (8, 3)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    assert bool(NuclearNormBall(0.5).contains(layer.weight))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)
    layer.weight = layer.weight.detach() / 2
    assert bool(NuclearNormBall(0.25).contains(layer.weight))


def test_a_convolution_with_a_packed_x_needs_all_sizes():
    conv = nn.Conv2d(4, 6, 3)
    with pytest.raises(ShapeError, match="Give the sizes"):
        register_constrained_parameter(conv, "weight", NuclearNormBall(view="o i h w -> o (i h w)"))
    sizes = {"i": 4, "h": 3, "w": 3}
    ball = NuclearNormBall(view="o i h w -> o (i h w)", sizes=sizes)
    register_constrained_parameter(conv, "weight", ball)
    assert conv._weight_unconstrained.shape == (6, 42)
    conv(torch.randn(1, 4, 5, 5)).sum().backward()
    assert conv._weight_unconstrained.grad.abs().max() > 0


@pytest.mark.parametrize(
    "constraint", [FixedRank(2), LowRank(2), PositiveSemidefinite(2), SpectralSphere()], ids=repr
)
def test_registered_at_its_default_start_a_layer_trains(constraint):
    layer = register_constrained_parameter(nn.Linear(6, 6), "weight", constraint)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    data, losses = torch.randn(32, 6), []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (layer(data) - data).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert bool(constraint.contains(layer.weight))


# what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: SpectralBall(0.0),
        lambda: SpectralSphere(float("inf")),
        lambda: NuclearNormBall(-1.0),
        lambda: BoundedSingularValues(-0.1, 1.0),
        lambda: BoundedSingularValues(1.0, 1.0),
        lambda: LowRank(0),
        lambda: FixedRank(2.0),
    ],
)
def test_wrong_options_are_refused(make):
    with pytest.raises(OptionError, match=r"expected .*"):
        make()


@pytest.mark.parametrize("shape", [(3, 3), (4, 3), (3,)], ids=str)
def test_a_stack_of_another_shape_is_refused(shape):
    with pytest.raises(ShapeError, match=r"expected \(\.\.\., n \+ k, k\)"):
        NuclearNormBall()(torch.zeros(shape))
