"""Cholesky factors and invertible matrices against SciPy, mpmath, closed forms, solved problems."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.datasets import load_iris

from constrainedparams import CholeskyFactor, Invertible
from constrainedparams.errors import ConstraintViolation, DtypeError, OptionError, ShapeError
from constrainedparams.numerics.invertible import away_from_singular, separation

double = {"dtype": torch.float64}
DTYPES = [torch.float32, torch.float64]
WIDE = [torch.float64, torch.complex128]


def softplus(x):
    return np.log1p(np.exp(np.asarray(x).real))


# Cholesky factors -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_a_factor_is_the_triangle_with_softplus_on_its_diagonal(dtype):
    x = torch.randn(2, 4, 4, dtype=dtype)
    for found, given in zip(CholeskyFactor()(x).numpy(), x.numpy(), strict=True):
        expected = np.tril(given, -1) + np.diag(softplus(np.diag(given)))
        assert np.abs(found - expected).max() < 1e-15
        assert not np.triu(found, 1).any()
        assert not np.diag(found).imag.any()


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_right_inverse_takes_the_factor_of_scipy(dtype):
    a = torch.randn(5, 9, dtype=dtype)
    factor = scipy.linalg.cholesky((a @ a.mH).numpy(), lower=True)
    x = CholeskyFactor().right_inverse(torch.from_numpy(factor))
    assert np.abs(np.tril(x.numpy(), -1) - np.tril(factor, -1)).max() == 0
    assert np.abs(softplus(np.diag(x.numpy())) - np.diag(factor)).max() < 1e-14


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_diagonals_of_every_size_come_back(dtype):
    sizes = torch.tensor([1e-30, 1e-12, 1e-4, 1.0, 30.0, 1e6, 1e30], dtype=dtype)
    x = CholeskyFactor().right_inverse(torch.diag(sizes))
    for value, size in zip(x.diagonal().tolist(), sizes.tolist(), strict=True):
        with mpmath.workdps(60):
            exact = float(mpmath.log(mpmath.expm1(size))) if size < 100 else size
        assert value == pytest.approx(exact, rel=4 * torch.finfo(dtype).eps)
    # softplus(x) = exp(x) far down: the rounding of x = -69 is 69 times that of y
    back = CholeskyFactor()(x).diagonal()
    assert torch.allclose(back, sizes, rtol=80 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
def test_the_diagonal_is_positive_for_every_x(dtype):
    x = torch.diag(torch.tensor([-3e4, -200.0, -104.0, -17.0, 0.0, 17.0, 3e4], dtype=dtype))
    y = CholeskyFactor()(x)
    assert bool(CholeskyFactor().contains(y))
    assert bool(torch.isfinite(y).all())
    if dtype != torch.float16:  # whose smallest number is 6e-8
        assert bool((y.diagonal() > 0).all())
    x = CholeskyFactor().right_inverse(y)
    assert torch.allclose(CholeskyFactor()(x).float(), y.float(), rtol=1e-2, atol=40.0)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_membership_does_not_depend_on_units(size):
    y = CholeskyFactor().sample((4, 4))
    assert bool(CholeskyFactor().contains(size * y))
    for row, column, value in [(0, 1, 1e-3), (2, 2, 0.0), (3, 3, -1e-9), (1, 3, -1e-3)]:
        off = y.clone()
        off[row, column] = value
        assert not bool(CholeskyFactor().contains(size * off))
        assert bool(CholeskyFactor().contains(CholeskyFactor().project(size * off)))
    turned = y.to(torch.complex64)
    turned[1, 1] *= torch.tensor(1j).exp()
    assert not bool(CholeskyFactor().contains(turned))


def test_projection_drops_the_upper_triangle_and_lifts_the_diagonal():
    y = torch.tensor([[2.0, 9.0, 9.0], [1.0, -1.0, 9.0], [0.0, 1.0, 0.0]])
    low = 1e-3 * float(y.norm())
    expected = torch.tensor([[2.0, 0.0, 0.0], [1.0, low, 0.0], [0.0, 1.0, low]])
    assert torch.allclose(CholeskyFactor().project(y), expected)
    assert torch.equal(CholeskyFactor().project(torch.zeros(2, 2)), 1e-3 * torch.eye(2))
    with pytest.raises(ConstraintViolation, match=r"away from CholeskyFactor\(\)") as caught:
        CholeskyFactor().right_inverse(y)
    assert torch.equal(
        eval(str(caught.value).split("`")[1], {**globals(), "value": y}),
        CholeskyFactor().project(y),
    )


def test_log_det_of_a_factor_is_that_of_mpmath():
    x = torch.diag(torch.tensor([-800.0, -40.0, 0.3, 50.0], **double)) + torch.randn(
        4, 4, **double
    ).triu(1)
    with mpmath.workdps(50):
        exact = sum(-mpmath.log1p(mpmath.exp(-mpmath.mpf(v))) for v in x.diagonal().tolist())
    assert float(CholeskyFactor().log_abs_det_jacobian(x)) == pytest.approx(float(exact), rel=1e-14)


def test_samples_have_a_gram_matrix_of_mean_one():
    y = CholeskyFactor().sample((20_000, 3, 3), generator=torch.Generator().manual_seed(0))
    assert torch.allclose((y @ y.mT).mean(0), torch.eye(3), atol=0.02)


def test_the_most_likely_gaussian_has_the_sample_covariance(minimize):
    data = load_iris().data
    z = torch.from_numpy(data - data.mean(0))

    def nll(factor):
        white = torch.linalg.solve_triangular(factor, z.mT, upper=False)
        return factor.diagonal().log().sum() + 0.5 * white.square().sum() / len(z)

    found = minimize(CholeskyFactor(), torch.eye(4, **double), nll).numpy()
    assert np.abs(found @ found.T - np.cov(data.T, bias=True)).max() < 1e-7
    assert np.abs(found - np.linalg.cholesky(np.cov(data.T, bias=True))).max() < 1e-7


# invertible matrices ----------------------------------------------------------------------------


def dense(x):
    """exp(S) R in NumPy and SciPy, S and R read off x entry by entry."""
    x = x.numpy()
    s = np.tril(x, -1)
    s = s - s.conj().T + (1j * np.diag(np.diag(x).imag) if np.iscomplexobj(x) else 0)
    return scipy.linalg.expm(s) @ (np.triu(x, 1) + np.diag(softplus(np.diag(x))))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_an_invertible_matrix_is_the_iwasawa_product(dtype):
    base = torch.linalg.qr(torch.randn(4, 4, dtype=dtype))[0]
    for scale in (0.1, 1.0, 3.0):
        x = scale * torch.randn(4, 4, dtype=dtype)
        y = Invertible()(x, base=base)
        assert np.abs(y.numpy() - base.numpy() @ dense(x)).max() < 1e-13 * (1 + scale)
        log_det = np.log(softplus(np.diag(x.numpy()))).sum()
        assert np.linalg.slogdet(y.numpy())[1] == pytest.approx(log_det, rel=1e-10)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_right_inverse_is_the_qr_factorisation_of_scipy(dtype):
    y = torch.randn(5, 5, dtype=dtype)
    q, r = scipy.linalg.qr(y.numpy())
    phase = np.diag(r) / np.abs(np.diag(r))
    q, r = q * phase, r / phase[:, None]
    x, state = Invertible().right_inverse(y)
    assert np.abs(state["base"].numpy() - q).max() < 1e-13
    assert np.abs(np.triu(x.numpy(), 1) - np.triu(r, 1)).max() < 1e-13
    assert np.abs(softplus(np.diag(x.numpy())) - np.diag(r).real).max() < 1e-13
    assert not np.tril(x.numpy(), -1).any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_exact_determinant_keeps_its_sign_for_every_x(n, dtype):
    for sign in (1, -1):
        start = Invertible(sign=1).sample((n, n), dtype=dtype)
        start[0] *= sign
        x, state = Invertible().right_inverse(start)
        for scale in (0.1, 1, 10, 100, 1e4):
            y = Invertible()(x + scale * torch.randn(n, n, dtype=dtype), **state)
            with mpmath.workdps(1000):  # of the rounded entries, exactly
                det = mpmath.det(mpmath.matrix(y.tolist()))
            assert mpmath.sign(det) == sign
            assert bool(Invertible(sign=1).contains(y)) == (sign == 1)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64], ids=str)
@pytest.mark.parametrize("n", [2, 16, 100])
def test_far_out_y_is_still_invertible_and_comes_back(n, dtype):
    for scale in (1, 10, 100, 1e4):
        y = Invertible()(scale * torch.randn(n, n, dtype=dtype))
        assert bool(Invertible().contains(y))
        x, state = Invertible().right_inverse(y)
        gap = (Invertible()(x, **state) - y).abs().max() / y.abs().max()
        assert float(gap) < 16 * torch.finfo(dtype).eps


def test_a_matrix_without_real_logarithm_is_reached(minimize):
    y = torch.diag(torch.tensor([-1.0, -2.0], **double))
    assert np.iscomplexobj(scipy.linalg.logm(y.numpy()))
    x, state = Invertible(sign=1).right_inverse(y)
    assert float((Invertible(sign=1)(x, **state) - y).abs().max()) < 1e-15
    start = torch.tensor([[1.0, 0.3], [-0.2, 1.0]], **double)
    found = minimize(Invertible(sign=1), start, lambda z: (z - y).square().sum())
    assert float((found - y).abs().max()) < 1e-6


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex128], ids=str)
@pytest.mark.parametrize("n", [2, 5, 40])
def test_singular_matrices_are_refused_and_the_remedy_works(n, dtype):
    a = torch.randn(n, n, dtype=dtype)
    low_rank = torch.randn(n, n - 1, dtype=dtype) @ torch.randn(n - 1, n, dtype=dtype)
    row, column = a.clone(), a.clone()
    row[n // 2], column[:, 0] = 0, column[:, -1]
    assert torch.allclose(separation(Invertible().project(0 * a)), torch.ones((), **double))
    for y in (torch.ones_like(a), low_rank, row, column, 1e20 * column):
        with pytest.raises(ConstraintViolation, match=r"away from Invertible\(\)") as caught:
            Invertible().right_inverse(y)
        moved = eval(str(caught.value).split("`")[1], {**globals(), "value": y})
        values = scipy.linalg.svdvals(moved.numpy())
        assert values[-1] == pytest.approx(1e-3 * values[0], rel=1e-3)
        assert bool(Invertible().contains(moved))


def test_columns_have_any_units():
    y = torch.randn(4, 4, **double)
    units = torch.tensor([1e-30, 1e-8, 1.0, 1e20], **double)
    assert bool(Invertible().contains(y * units))
    x, state = Invertible().right_inverse(y * units)
    assert torch.allclose(Invertible()(x, **state) / units, y, rtol=1e-12, atol=1e-13)
    assert float(separation(y * units)) == pytest.approx(float(separation(y)), rel=1e-12)
    unit = y.numpy() / np.linalg.norm(y.numpy(), axis=0)
    assert float(separation(y)) == pytest.approx(np.linalg.svd(unit)[1][-1], rel=1e-12)


def test_projection_into_the_other_component_turns_the_smallest_singular_value():
    u, s, vh = np.linalg.svd(np.random.default_rng(0).normal(size=(4, 4)))
    s = np.array([3.0, 2.0, 1.0, 0.25])
    y = (u * (np.linalg.det(u) * np.linalg.det(vh) * np.r_[1, 1, 1, -1] * s)) @ vh
    y[0] *= -np.sign(np.linalg.det(y))
    moved = Invertible(sign=1).project(torch.from_numpy(y)).numpy()
    assert np.linalg.det(moved) > 0
    assert scipy.linalg.svdvals(moved) == pytest.approx([3, 2, 1, 3e-3])
    # det < 0 and det > 0 are at least the smallest singular value apart
    assert np.linalg.norm(moved - y) == pytest.approx(0.25 + 3e-3)
    assert np.array_equal(Invertible().project(torch.from_numpy(y)).numpy(), y)
    with pytest.raises(ConstraintViolation, match=r"away from Invertible\(sign=1\)"):
        Invertible(sign=1).right_inverse(torch.from_numpy(y))


def test_a_base_that_was_cast_is_made_orthogonal_again():
    y = Invertible().sample((8, 8), **double)
    x, state = Invertible().right_inverse(y)
    cast = state["base"].bfloat16().double()
    orthogonal = scipy.linalg.polar(cast.numpy())[0]
    found = Invertible()(x, base=cast).numpy()
    assert np.abs(found - orthogonal @ dense(x)).max() < 1e-7
    assert np.abs(cast.numpy() - orthogonal).max() > 1e-4
    x = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: Invertible()(t, base=cast), (x,), rtol=1e-5)


def test_a_thousand_retractions_change_nothing_else():
    start = Invertible(sign=1).sample((16, 16))
    x, state = Invertible(sign=1).right_inverse(start)
    y = Invertible(sign=1)(x, **state)
    for _ in range(1000):
        x, state = Invertible(sign=1).retract(x, **state)
    assert torch.allclose(Invertible(sign=1)(x, **state), y, atol=1e-5)
    moved, after = Invertible(sign=1).retract(x + torch.randn(16, 16), **state)
    assert not moved.tril(-1).any()
    base = after["base"].double().numpy()
    assert np.abs(base.T @ base - np.eye(16)).max() < 1e-6
    assert np.linalg.det(base) == pytest.approx(1, abs=1e-5)


def test_wrong_options_shapes_and_dtypes_are_refused():
    for sign in (-1, 0, 2, "+"):
        with pytest.raises(OptionError, match="expected None or 1"):
            Invertible(sign=sign)
    for constraint in (Invertible(), CholeskyFactor()):
        with pytest.raises(ShapeError, match=r"\(3, 2\); .* square"):
            constraint(torch.zeros(3, 2))
    with pytest.raises(DtypeError, match=r"no sign: use Invertible\(\)"):
        Invertible(sign=1)(torch.zeros(2, 2, dtype=torch.complex64))


def test_samples_are_gaussian_in_the_components_asked_for():
    generator = torch.Generator().manual_seed(0)
    either = Invertible().sample((4000, 3, 3), generator=generator)
    above = Invertible(sign=1).sample((4000, 3, 3), generator=generator)
    assert float((torch.linalg.det(either) > 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert bool((torch.linalg.det(above) > 0).all())
    for y in (either, above):
        assert float(y.mean()) == pytest.approx(0, abs=0.01)
        assert float(y.square().mean()) == pytest.approx(1 / 3, abs=0.01)
        # not those of another component, pushed over the boundary
        values = torch.linalg.svdvals(y)
        assert float((values[:, -1] < 0.01 * values[:, 0]).float().mean()) < 0.1


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64], ids=str)
def test_only_what_is_singular_to_rounding_is_moved_and_only_by_rounding(dtype):
    n, slack = 6, 1e-5
    eye = torch.eye(n, dtype=dtype)
    good = eye + 0.1 * torch.randn(n, n, dtype=dtype).triu(1)
    bad = 1e-3 * torch.randn(n, n, dtype=dtype).triu(1) + 1e-30 * eye
    bad[0] = 1
    for r in (good, bad, torch.stack((good, bad))):
        found = away_from_singular(r, slack)
        assert bool((separation(found) >= 0.9 * slack).all())
        norms = torch.linalg.vector_norm(r, dim=-2)
        assert bool(
            (torch.linalg.vector_norm(found - r, dim=-2) <= 2 * slack * n**0.5 * norms).all()
        )
        mapped = torch.func.vmap(lambda t: away_from_singular(t, slack))(torch.stack((r, r)))
        assert torch.equal(mapped[1], found)
    assert torch.equal(away_from_singular(good, slack), good)
    if not dtype.is_complex:
        assert np.linalg.det(away_from_singular(bad, slack).double().numpy() * 1e3) > 0


@pytest.mark.parametrize("constraint", [CholeskyFactor(), Invertible()], ids=repr)
@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0)], ids=str)
def test_empty_matrices_are_members(constraint, shape):
    y = constraint(torch.zeros(shape))
    assert y.shape == shape
    assert bool(constraint.contains(constraint.project(constraint.sample(shape))).all())


@pytest.mark.parametrize(
    "constraint", [CholeskyFactor(), Invertible(), Invertible(sign=1)], ids=repr
)
def test_derivatives_are_right_away_from_the_start(constraint):
    for dtype in WIDE if constraint.has_complex else WIDE[:1]:
        x = (3 * torch.randn(3, 3, dtype=dtype)).requires_grad_()
        assert torch.autograd.gradcheck(constraint, (x,))
        assert torch.autograd.gradgradcheck(constraint, (x,))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_inverse_is_found_in_its_component(minimize, sign):
    a = torch.linalg.qr(torch.randn(5, 5, **double))[0] + 0.3 * torch.randn(5, 5, **double)
    a[0] *= sign * torch.linalg.det(a).sign()
    start = torch.eye(5, **double)
    start[0] *= sign
    one = torch.eye(5, **double)
    found = minimize(Invertible(), start, lambda y: (y @ a - one).square().sum())
    assert np.abs(found.numpy() - np.linalg.inv(a.numpy())).max() < 1e-6


@pytest.mark.parametrize("sign", [1, -1])
def test_the_barrier_of_the_determinant_whitens(minimize, sign):
    # tr(w c w^T) - 2 log |det w| is least where w c w^T = I: the likelihood of linear ICA with
    # Gaussian sources
    data = load_iris().data
    c = torch.from_numpy(np.cov(data.T))
    start = torch.eye(4, **double)
    start[0] *= sign
    found = minimize(
        Invertible(), start, lambda w: (w @ c @ w.mT).trace() - 2 * torch.linalg.slogdet(w)[1]
    ).numpy()
    assert np.abs(found @ c.numpy() @ found.T - np.eye(4)).max() < 1e-6
    assert math.copysign(1, np.linalg.det(found)) == sign
