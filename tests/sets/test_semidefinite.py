"""Semidefinite, correlation, unit-determinant and Hermitian matrices: SciPy, closed forms, optima."""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
import torch

from constrainedparams import (
    Correlation,
    CorrelationCholesky,
    DensityMatrix,
    FixedRankPositiveSemidefinite,
    Hermitian,
    Parametrized,
    PositiveDefinite,
    PositiveSemidefinite,
    SkewHermitian,
    UnitDeterminantPositiveDefinite,
)
from constrainedparams.errors import ConstraintViolation, OptionError, ShapeError
from constrainedparams.numerics.correlation import nearest_correlation

double = {"dtype": torch.float64}
WIDE = [torch.float64, torch.complex128]
DTYPES = [torch.float32, torch.float64, torch.complex64]


def symmetric(n, dtype=torch.float64):
    x = torch.randn(n, n, dtype=dtype)
    return x + x.mH


def spectrum(values, dtype=torch.float64):
    """A Hermitian matrix with these eigenvalues."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=wide))[0]
    y = (q * torch.tensor(values, dtype=torch.float64)) @ q.mH
    return (0.5 * (y + y.mH)).to(dtype)


# positive semidefinite matrices ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_the_right_inverse_is_the_square_root_of_scipy(dtype):
    y = PositiveSemidefinite().sample((4, 4), dtype=dtype)
    root = scipy.linalg.sqrtm(y.numpy())
    assert np.abs(PositiveSemidefinite().right_inverse(y).numpy() - root).max() < 1e-12


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("rank", [None, 2])
def test_project_is_nearest_by_its_optimality_conditions(rank, dtype):
    """What is taken away is orthogonal to p and, without a rank, negative semidefinite."""
    y = symmetric(5, dtype)
    p = PositiveSemidefinite(rank).project(y).numpy()
    rest = y.numpy() - p
    e = np.linalg.eigvalsh(y.numpy())
    assert np.abs(p @ rest).max() < 1e-13
    assert np.linalg.eigvalsh(p).min() > -1e-13
    kept = np.maximum(e if rank is None else e[-rank:], 0)
    assert np.linalg.norm(p) == pytest.approx(np.linalg.norm(kept))


@pytest.mark.parametrize(
    ("constraint", "values"),
    [
        (PositiveSemidefinite(), [3.0, 1.0, 0.0, 0.0]),  # the negative ones are cut off
        (PositiveSemidefinite(rank=2), [3.0, 1.0, 0.0, 0.0]),
        (PositiveSemidefinite(rank=1), [3.0, 0.0, 0.0, 0.0]),
        (FixedRankPositiveSemidefinite(2), [3.0, 1.0, 0.0, 0.0]),
    ],
    ids=repr,
)
def test_optimisation_finds_the_nearest_matrix(constraint, values, minimize):
    target = spectrum([3.0, 1.0, -0.5, -2.0])
    start = constraint.sample((4, 4), **double)
    y = minimize(constraint, start, lambda y: (y - target).square().sum())
    assert np.abs(np.linalg.eigvalsh(y.numpy())[::-1] - values).max() < 1e-5
    assert bool(constraint.contains(y))


@pytest.mark.parametrize("rank", [None, 2])
def test_gradient_descent_leaves_zero(rank):
    target = spectrum([3.0, 1.0, -0.5, -2.0])
    w = Parametrized(torch.zeros(4, 4, **double), PositiveSemidefinite(rank))
    optimizer = torch.optim.SGD(w.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (w.y - target).square().sum().backward()
        optimizer.step()
    assert np.abs(np.linalg.eigvalsh(w.y.detach().numpy())[::-1] - [3, 1, 0, 0]).max() < 0.01


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [3, 40])
def test_a_fixed_rank_stays_for_every_x(n, dtype):
    constraint = FixedRankPositiveSemidefinite(2)
    for scale in (1e-3, 1.0, 100.0, 1e4):
        y = constraint(scale * torch.randn(n, 2, dtype=dtype))
        assert bool(constraint.contains(y))
        e = np.linalg.eigvalsh(y.numpy().astype(complex))[::-1]
        assert e[1] > 2 * abs(e[2:]).max()


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_membership_does_not_depend_on_units(size):
    y = PositiveSemidefinite(2).sample((4, 4), **double)
    assert bool(PositiveSemidefinite(2).contains(size * y))
    assert not bool(PositiveSemidefinite(1).contains(size * y))
    assert not bool(PositiveSemidefinite().contains(size * (y - 1e-3 * torch.eye(4))))


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_wishart_samples_have_mean_identity(dtype):
    for rank in (None, 2):
        y = PositiveSemidefinite(rank).sample((20000, 3, 3), dtype=dtype)
        assert np.abs(y.mean(0).numpy() - np.eye(3)).max() < 0.04


# density matrices --------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [None, 1, 2])
def test_the_least_energy_is_the_smallest_eigenvalue(rank, minimize):
    """Reached at a pure state, on the boundary."""
    energy = spectrum([-2.0, 0.5, 1.0, 3.0])
    start = DensityMatrix(rank).sample((4, 4), **double)
    rho = minimize(DensityMatrix(rank), start, lambda y: (energy * y).sum())
    assert float((energy * rho).sum()) == pytest.approx(-2.0, abs=1e-5)


def test_the_nearest_density_matrix_has_the_nearest_eigenvalues():
    """Against SciPy's solution of the problem in eigenvalues."""
    y = spectrum([1.5, 0.7, 0.1, -0.4])
    e = np.linalg.eigvalsh(y.numpy())
    best = scipy.optimize.minimize(
        lambda p: ((p - e) ** 2).sum(),
        np.full(4, 0.25),
        bounds=[(0, None)] * 4,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        tol=1e-12,
    ).x
    found = DensityMatrix().project(y).numpy()
    assert np.abs(np.linalg.eigvalsh(found) - best).max() < 1e-6
    assert np.abs(found @ y.numpy() - y.numpy() @ found).max() < 1e-14


def test_samples_have_the_purity_of_the_hilbert_schmidt_ensemble():
    """E tr rho^2 = 2n / (n^2 + 1) (Zyczkowski and Sommers 2001)."""
    rho = DensityMatrix().sample((20000, 3, 3), dtype=torch.complex128)
    purity = (rho @ rho).diagonal(dim1=-2, dim2=-1).sum(-1).real
    assert float(purity.mean()) == pytest.approx(0.6, abs=0.005)


# correlation matrices ----------------------------------------------------------------------------


def dual_nearest_correlation(a, low):
    """Qi and Sun 2006: the dual of the problem, unconstrained, by SciPy's L-BFGS."""
    n = len(a)

    def positive(y):
        e, u = np.linalg.eigh(a - low * np.eye(n) + np.diag(y))
        return (u * np.maximum(e, 0)) @ u.T

    def dual(y):
        p = positive(y)
        return 0.5 * (p**2).sum() - (1 - low) * y.sum(), np.diag(p) - (1 - low)

    found = scipy.optimize.minimize(
        dual, np.zeros(n), jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-12}
    )
    return positive(found.x) + low * np.eye(n)


@pytest.mark.parametrize("low", [0.0, 1e-3])
@pytest.mark.parametrize("n", [3, 8])
def test_the_nearest_correlation_matrix_is_that_of_its_dual_problem(n, low):
    a = np.random.default_rng(n).uniform(-1, 1, (n, n))
    a = (a + a.T) / 2
    found = nearest_correlation(torch.from_numpy(a), low).numpy()
    assert np.abs(found - dual_nearest_correlation(a, low)).max() < 1e-6
    assert np.array_equal(np.diag(found), np.ones(n))


def test_the_nearest_correlation_matrix_of_higham():
    """IMA J. Numer. Anal. 22, 2002, section 5, to the four digits that are printed there."""
    a = (
        torch.diag(torch.full((4,), 2.0))
        - torch.diag(torch.ones(3), 1)
        - torch.diag(torch.ones(3), -1)
    )
    found = nearest_correlation(a, 0.0).numpy()
    first = [1.0, -0.8084, 0.1916, 0.1068]
    assert np.abs(found[0] - first).max() < 1e-4
    assert found[1, 2] == pytest.approx(-0.6562, abs=1e-4)


def test_optimisation_reaches_the_nearest_correlation_matrix(minimize):
    a = symmetric(4) / 3
    for constraint in (Correlation(), Correlation(rank=4)):
        start = Correlation().sample((4, 4), **double)
        y = minimize(constraint, start, lambda y: (y - a).square().sum(), steps=3000)
        exact = dual_nearest_correlation(a.numpy(), 0.0)
        # without a rank the singular optimum is at infinity
        assert np.abs(y.numpy() - exact).max() < (1e-2 if constraint.rank is None else 1e-4)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_the_factor_is_that_of_scipy(dtype):
    y = Correlation().sample((5, 5), dtype=dtype)
    l = scipy.linalg.cholesky(y.numpy(), lower=True)
    assert bool(CorrelationCholesky().contains(torch.from_numpy(l)))
    x = CorrelationCholesky().right_inverse(torch.from_numpy(l))
    factor = CorrelationCholesky()(x).numpy()
    assert np.abs(factor @ factor.conj().T - y.numpy()).max() < 1e-14
    assert np.abs(Correlation().right_inverse(y).numpy() - x.numpy()).max() < 1e-12


def test_samples_are_uniform_among_correlation_matrices():
    """Then each entry r has (1 + r)/2 ~ Beta(n/2, n/2) (LKJ with eta = 1)."""
    y = Correlation().sample((4000, 4, 4), **double)
    for i, j in ((1, 0), (3, 0), (3, 2)):
        assert scipy.stats.kstest((1 + y[:, i, j].numpy()) / 2, "beta", (2, 2)).pvalue > 1e-3
    factor = CorrelationCholesky().sample((4000, 3, 3), dtype=torch.complex128)
    z = (factor @ factor.mH)[:, 2, 1]  # uniform in C^3: |z|^2 ~ Beta(1, n - 1)
    assert scipy.stats.kstest(z.abs().square().numpy(), "beta", (1, 2)).pvalue > 1e-3


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e6])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_correlation_matrices_are_definite_for_every_x(dtype, scale):
    for n in (2, 5, 30):
        y = Correlation()(scale * torch.randn(n, n, dtype=dtype))
        wide = y.numpy().astype(complex)
        assert bool(Correlation().contains(y))
        assert np.linalg.eigvalsh(wide).min() > 0
        assert np.array_equal(np.diag(wide), np.ones(n))


def test_structural_zeros_stay_zero_while_the_rest_is_fitted(minimize):
    mask = torch.ones(4, 4).bool()
    mask[2, 0] = mask[3, 1] = False
    constraint = CorrelationCholesky(mask=mask)
    target = constraint.sample((4, 4), **double)
    start = constraint.project(torch.zeros(4, 4, **double))
    y = minimize(constraint, start, lambda y: (y @ y.mT - target @ target.mT).square().sum())
    assert y[2, 0] == 0 and y[3, 1] == 0
    assert torch.allclose(y, target, atol=1e-5)


# determinant 1 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_the_least_trace_has_its_closed_form(dtype, minimize):
    """min tr(A y) over det y = 1 is at y = det(A)^(1/n) A^-1."""
    a = PositiveDefinite().sample((3, 3), dtype=dtype)
    start = torch.eye(3, dtype=dtype)
    y = minimize(UnitDeterminantPositiveDefinite(), start, lambda y: (a * y.mT).sum().real)
    exact = np.linalg.det(a.numpy()).real ** (1 / 3) * np.linalg.inv(a.numpy())
    assert np.abs(y.numpy() - exact).max() < 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_determinant_is_one_for_every_x(dtype):
    constraint = UnitDeterminantPositiveDefinite()
    for n in (1, 2, 5, 20):
        for scale in (0.0, 1.0, 100.0, 1e3):
            y = constraint(scale * torch.randn(n, n, dtype=dtype))
            assert bool(constraint.contains(y))
    y = constraint(torch.randn(4, 4, dtype=dtype)).numpy().astype(complex)
    assert np.linalg.slogdet(y)[1] == pytest.approx(0, abs=300 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("dtype", "condition"), [(torch.float32, 1e5), (torch.float64, 1e11)], ids=str
)
def test_ill_conditioned_matrices_come_back(dtype, condition):
    c = condition**0.5
    y = spectrum([c, 1.0, 1 / c], torch.float64).to(dtype)
    constraint = UnitDeterminantPositiveDefinite()
    again = constraint(constraint.right_inverse(y))
    # x itself was rounded, which moves the determinant by the root of the condition number
    assert float((again - y).abs().max()) <= 4 * torch.finfo(dtype).eps * condition**0.5 * c


# the exponential map, Hermitian matrices ---------------------------------------------------------


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_exp_and_log_are_those_of_scipy(dtype):
    x = symmetric(4, dtype)
    y = PositiveDefinite(map="exp")(x)
    exact = scipy.linalg.expm(x.numpy())
    assert np.abs(y.numpy() - exact).max() < 1e-13 * np.abs(exact).max()
    back = PositiveDefinite(map="exp").right_inverse(y).numpy()
    assert np.abs(back - scipy.linalg.logm(y.numpy())).max() < 1e-9


def test_a_turned_problem_has_turned_steps_with_exp_and_not_with_cholesky():
    q = torch.linalg.qr(torch.randn(3, 3, **double))[0]
    weight = symmetric(3)

    def step(constraint, u):
        x = constraint.right_inverse(u @ spectrum_of @ u.mT).requires_grad_()
        (g,) = torch.autograd.grad((u @ weight @ u.mT * constraint(x)).sum(), x)
        return u.mT @ constraint(x - 0.1 * g).detach() @ u

    spectrum_of = spectrum([0.5, 1.0, 3.0])
    one, exp = torch.eye(3, **double), PositiveDefinite(map="exp")
    assert torch.allclose(step(exp, one), step(exp, q))
    assert not torch.allclose(step(PositiveDefinite(), one), step(PositiveDefinite(), q), atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_exp_is_definite_for_every_x(dtype):
    for scale in (1.0, 30.0, 1e4):
        y = PositiveDefinite(map="exp")(scale * torch.randn(6, 6, dtype=dtype))
        assert bool(PositiveDefinite().contains(y))
        assert bool(torch.isfinite(y.abs()).all())


def test_hermitian_and_skew_hermitian_parts_add_up():
    x = torch.randn(4, 4, dtype=torch.complex128)
    h, s = Hermitian()(x), SkewHermitian()(x)
    assert torch.allclose(h + s, x)
    assert np.abs(np.linalg.eigvals(h.numpy()).imag).max() < 1e-14
    assert np.abs(np.linalg.eigvals(s.numpy()).real).max() < 1e-14
    assert (
        np.abs(
            scipy.linalg.expm(s.numpy()) @ scipy.linalg.expm(s.numpy()).conj().T - np.eye(4)
        ).max()
        < 1e-13
    )


# what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: PositiveSemidefinite(0),
        lambda: PositiveSemidefinite(1.5),
        lambda: FixedRankPositiveSemidefinite(None),
        lambda: DensityMatrix(True),
        lambda: PositiveDefinite(0.0, 1.0, "exp"),
        lambda: PositiveDefinite(map="log"),
        lambda: CorrelationCholesky(mask=torch.ones(2, 2)),
        lambda: CorrelationCholesky(mask="lower"),
    ],
)
def test_wrong_options_are_refused(make):
    with pytest.raises(OptionError, match=r"expected .*"):
        make()


def test_a_packed_x_of_another_shape_is_refused_with_the_right_one():
    with pytest.raises(ShapeError, match=r"expected \(\.\.\., n, 2\)"):
        PositiveSemidefinite(2)(torch.zeros(3, 3))
    with pytest.raises(ShapeError, match="size 3 or more"):
        PositiveSemidefinite(3).sample((2, 2))


def test_a_required_rank_is_required():
    with pytest.raises(TypeError, match="rank"):
        FixedRankPositiveSemidefinite()


def test_off_the_set_the_message_names_the_distance():
    with pytest.raises(ConstraintViolation, match=r"0.3\d* away from Correlation\(\)"):
        Correlation().right_inverse(1.3 * torch.eye(3))
