"""Probability vectors: against SciPy, at the boundary, and problems with known answers."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from constrainedparams import Ordered, Parametrized, Simplex
from constrainedparams.errors import ConstraintViolation, DtypeError, OptionError, ShapeError

BOTH = pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])


def descend(w, loss, steps, lr, make=torch.optim.Adam):
    optimizer = make(w.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(w.y).backward()
        optimizer.step()
    return w.y.detach().numpy()


@pytest.mark.parametrize("dim", [-1, 0, None], ids=str)
def test_the_open_map_is_the_softmax_of_scipy(dim):
    x = 10 * torch.randn(5, 4, dtype=torch.float64)
    expected = scipy.special.softmax(x.numpy(), axis=dim)
    assert np.allclose(Simplex(dim=dim)(x).numpy(), expected, rtol=1e-14)
    back = Simplex(dim=dim).right_inverse(torch.from_numpy(expected)).numpy()
    logits = x.numpy() - x.numpy().mean(axis=dim, keepdims=True)
    assert np.abs(back - logits).max() < 1e-12


@pytest.mark.parametrize("dim", [-1, 0, None], ids=str)
def test_the_closed_map_is_the_square_of_the_direction(dim):
    x = torch.randn(5, 4, dtype=torch.float64)
    squares = x.numpy() ** 2
    found = Simplex(closed=True, dim=dim)(x).numpy()
    assert np.allclose(found, squares / squares.sum(axis=dim, keepdims=True), rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_the_open_map_has_no_zeros_and_the_closed_one_has(dtype):
    x = torch.tensor([0.0, -15.0, -30.0, -120.0, -3e4], dtype=dtype)
    y = Simplex()(x)
    assert bool((y > 0).all())
    assert bool(Simplex().contains(y))
    assert bool(torch.isfinite(Simplex().right_inverse(y)).all())
    assert Simplex(closed=True)(torch.tensor([1.0, 0.0], dtype=dtype)).tolist() == [1.0, 0.0]


@BOTH
@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e10, 1e30])
def test_extreme_values_have_finite_derivatives(size, closed):
    x = (size * torch.tensor([1.0, -2.0, 0.5])).requires_grad_()
    y = Simplex(closed)(x)
    assert bool(Simplex(closed).contains(y))
    (slope,) = torch.autograd.grad((y * torch.tensor([1.0, 2.0, 3.0])).sum(), x)
    assert bool(torch.isfinite(slope).all())
    if closed:
        # y is constant along x, and the slope is that of x of size 1, divided by the size.
        z = (x.detach() / size).requires_grad_()
        weighted = (z.square() * torch.tensor([1.0, 2.0, 3.0])).sum() / z.square().sum()
        expected = torch.autograd.grad(weighted, z)[0] / size
        assert torch.allclose(slope, expected, rtol=1e-5, atol=1e-7 / size)


@BOTH
@pytest.mark.parametrize("n", [2, 1000, 1_000_000])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_long_vectors_sum_to_one_within_the_tolerance(dtype, n, closed):
    constraint = Simplex(closed)
    y = constraint(torch.randn(n).to(dtype))
    assert bool(constraint.contains(y))
    total = y.double().sum().item()
    assert total == pytest.approx(1, abs=constraint.tolerance(y))
    if dtype == torch.float32:
        assert total == pytest.approx(1, abs=1e-6)
        assert not bool(constraint.contains(1.0001 * y))


def test_zeros_are_outside_the_open_simplex_with_a_distance():
    y = torch.tensor([0.5, 0.5, 0.0])
    for inside in (False, True):
        assert bool(Simplex(closed=inside).contains(y)) is inside
    with pytest.raises(
        ConstraintViolation, match=r"1\.91e-06 away from Simplex\(\), where at most"
    ):
        Simplex().right_inverse(y)
    beyond = torch.tensor([0.75, 0.5, -0.25])
    assert float(Simplex(closed=True).residual(beyond)) == pytest.approx(0.25, rel=1e-5)
    assert float(Simplex().residual(3 * y)) == pytest.approx(2.0)
    half = y.bfloat16()
    assert torch.equal(Simplex()(Simplex().right_inverse(half))[:2], half[:2])


def test_half_precision_keeps_small_probabilities():
    y = torch.tensor([1 - 1e-6, 1e-6, 1e-12])
    x = Simplex().right_inverse(y.bfloat16())
    assert torch.allclose(Simplex()(x).float().log(), y.log(), atol=0.2)


def test_the_vertices_of_the_closed_simplex_are_reached_and_left():
    constraint = Simplex(closed=True)
    for n in (2, 10, 10_000):
        vertex = torch.zeros(n)
        vertex[0] = 1
        assert torch.allclose(constraint(constraint.right_inverse(vertex)), vertex, atol=3e-7)
    w = Parametrized(torch.tensor([1.0, 0.0, 0.0]), constraint)
    target = torch.tensor([0.1, 0.3, 0.6])
    found = descend(w, lambda y: (y - target).square().sum(), 1500, 0.02)
    assert np.allclose(found, target, atol=1e-4)


@BOTH
def test_project_is_the_nearest_point_with_a_margin(closed):
    constraint = Simplex(closed)
    y = torch.tensor([[0.0, 2.0, 2.0, -1.0], [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0]])
    expected = [[0.0025, 0.4975, 0.4975, 0.0025], [0.1, 0.2, 0.3, 0.4], [0.25] * 4]
    assert torch.allclose(constraint.project(y), torch.tensor(expected))
    huge = constraint.project(torch.tensor([3e38, 1.0, -3e38, 0.0]))
    assert torch.allclose(huge, torch.tensor([0.9925, 0.0025, 0.0025, 0.0025]))


def test_retract_takes_the_shift_out_of_x():
    x = torch.randn(3, 4, dtype=torch.float64) + 100
    moved, state = Simplex().retract(x)
    assert state == {}
    assert float(moved.mean(-1).abs().max()) < 1e-13
    assert torch.allclose(Simplex()(moved), Simplex()(x), rtol=1e-13)
    moved, _ = Simplex(closed=True).retract(x)
    assert torch.allclose(moved.norm(dim=-1), torch.ones(3, dtype=torch.float64))


def test_samples_are_uniform():
    y = Simplex().sample((20000, 4), dtype=torch.float64)
    # An entry of a uniform point of the simplex has the distribution beta(1, n - 1).
    assert scipy.stats.kstest(y[:, 0].numpy(), "beta", (1, 3)).pvalue > 0.01


def test_what_it_does_not_take():
    with pytest.raises(ShapeError, match="at least one number in each vector"):
        Simplex()(torch.zeros(2, 0))
    with pytest.raises(DtypeError, match="real floating point"):
        Simplex()(torch.zeros(3, dtype=torch.complex64))


def test_transition_probabilities_are_the_relative_frequencies():
    counts = torch.randint(1, 20, (4, 5), dtype=torch.float64)
    for dim in (0, 1):
        w = Parametrized(torch.full((4, 5), 0.2, dtype=torch.float64), Simplex(dim=dim))
        found = descend(w, lambda y: -(counts * y.log()).sum() / counts.sum(), 800, 0.1)
        assert np.allclose(found, counts / counts.sum(dim, keepdim=True), atol=1e-6)


def test_mixture_weights_are_those_of_the_em_algorithm():
    means, truth = np.array([-2.0, 0.0, 3.0]), np.array([0.2, 0.5, 0.3])
    rng = np.random.default_rng(0)
    data = rng.normal(means[rng.choice(3, 400, p=truth)], 1.0)
    likelihood = scipy.stats.norm.pdf(data[:, None], means)
    weights = np.full(3, 1 / 3)
    for _ in range(2000):
        posterior = likelihood * weights
        weights = (posterior / posterior.sum(1, keepdims=True)).mean(0)
    table = torch.from_numpy(likelihood)
    for closed in (False, True):
        w = Parametrized(torch.full((3,), 1 / 3, dtype=torch.float64), Simplex(closed))
        found = descend(w, lambda y: -(table @ y).log().mean(), 600, 0.05)
        assert np.allclose(found, weights, atol=1e-7)


def test_a_portfolio_with_weights_that_are_zero():
    target = torch.tensor([1.0, 0.8, -2.0, 0.5], dtype=torch.float64)
    # Minimum of |y - target|^2 on the closed simplex: threshold (1 + 0.8 + 0.5 - 1)/3 = 13/30.
    expected = np.array([17 / 30, 11 / 30, 0.0, 2 / 30])
    w = Parametrized(target.clone(), Simplex(closed=True))
    found = descend(w, lambda y: (y - target).square().sum(), 1500, 0.1, torch.optim.SGD)
    assert np.allclose(found, expected, atol=1e-9)


def band(n):
    """A chain that stays or moves by one state."""
    i = torch.arange(n)
    return (i[:, None] - i).abs() <= 1


@BOTH
@pytest.mark.parametrize("dim", [-1, 0], ids=str)
def test_a_mask_keeps_its_zeros_and_the_rest_is_the_simplex_of_what_is_left(dim, closed):
    constraint = Simplex(closed, mask=band(5), dim=dim)
    x = torch.randn(5, 5, dtype=torch.float64)
    y = constraint(x)
    assert torch.equal(y == 0, ~band(5))
    for row, own, free in zip(y.movedim(dim, -1), x.movedim(dim, -1), band(5), strict=True):
        assert torch.allclose(row[free], Simplex(closed)(own[free]), atol=1e-15)
    assert constraint.dimension((5, 5)) == 13 - 5  # entries, sums
    leaf = x.clone().requires_grad_()
    constraint(leaf).square().sum().backward()
    assert torch.equal(leaf.grad == 0, ~band(5))


def test_transition_probabilities_with_a_mask_are_the_relative_frequencies():
    counts = torch.randint(1, 20, (4, 4)).double() * band(4)
    start = Simplex(mask=band(4)).project(torch.zeros(4, 4, dtype=torch.float64))
    w = Parametrized(start, Simplex(mask=band(4)))
    found = descend(
        w, lambda y: -(counts * y.clamp_min(1e-300).log()).sum() / counts.sum(), 800, 0.1
    )
    assert np.allclose(found, counts / counts.sum(-1, keepdim=True), atol=1e-6)


def test_project_with_a_mask_is_the_nearest_point_of_what_is_left():
    mask = [[True, True, False]]
    moved = Simplex(mask=mask).project(torch.tensor([[2.0, -1.0, 5.0]]))
    assert torch.allclose(moved, torch.tensor([[0.995, 0.005, 0.0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": [[True, False], [False, False]]}, "leaves nothing of a vector"),
        ({"mask": [1.0, 0.0]}, "expected booleans"),
        ({"mask": [True, False], "dim": None}, "expected one axis"),
    ],
)
def test_masks_that_make_no_set_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        Simplex(**options)
    with pytest.raises(ShapeError, match=r"the mask has shape \(2,\)"):
        Simplex(mask=[True, False])(torch.zeros(3))


# ordered probabilities --------------------------------------------------------------------------


def test_ordered_probabilities_are_the_softmax_of_ordered_logits():
    x = torch.randn(3, 5, dtype=torch.float64)
    logits = Ordered()(x).numpy()
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    y = Simplex(ordered=True)(x)
    assert np.abs(y.numpy() - expected).max() < 1e-15
    assert torch.allclose(Simplex(ordered=True)(Simplex(ordered=True).right_inverse(y)), y)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str
)
def test_ordered_probabilities_are_strictly_so_where_they_would_tie_or_vanish(dtype):
    for x in ([5.0, -60.0, -60.0, -60.0], [0.0, 300.0, -60.0, 300.0], [0.0, -300.0, 1.0, 300.0]):
        y = Simplex(ordered=True)(torch.tensor(x, dtype=dtype))
        assert bool((y.diff() > 0).all()) and bool((y > 0).all()), y
        assert bool(Simplex(ordered=True).contains(y))


def test_the_nearest_ordered_probabilities_are_those_of_a_quadratic_programme():
    y = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = scipy.optimize.minimize(
        lambda p: ((p - y.numpy()) ** 2).sum(),
        np.arange(6) / 15,
        constraints=[
            {"type": "eq", "fun": lambda p: p.sum() - 1},
            {"type": "ineq", "fun": np.diff},
            {"type": "ineq", "fun": lambda p: p},
        ],
        method="SLSQP",
        options={"ftol": 1e-15},
    )
    inside = found.x + 0.01 * (np.arange(1, 7) / 21 - found.x)
    assert np.abs(Simplex(ordered=True).project(y).numpy() - inside).max() < 1e-6


@pytest.mark.parametrize("options", [{"closed": True}, {"mask": [True, False]}], ids=str)
def test_ordered_goes_with_no_other_option(options):
    with pytest.raises(OptionError, match="Drop one of the options"):
        Simplex(ordered=True, **options)


def test_a_large_mask_is_printed_by_its_number_of_entries():
    assert "shape=(6, 6), 16 of 36 true, sha256" in repr(Simplex(mask=band(6)))
    assert Simplex(mask=band(6)) == Simplex(mask=band(6).tolist())
