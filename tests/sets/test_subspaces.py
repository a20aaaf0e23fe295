"""Affine subspaces, centred tensors, spheres in a subspace: least squares of NumPy and SciPy."""

import numpy as np
import pytest
import scipy.linalg
import torch

from constrainedparams import AffineSubspace, Parametrized, Sphere, SumToZero, Traceless
from constrainedparams.errors import DtypeError, OptionError, ShapeError

double = {"dtype": torch.float64}
SINGLE = {"dtype": torch.float32}


def random_equations(m, n, condition, kind=np.float64):
    rng = np.random.default_rng(0)
    draw = rng.standard_normal((m, n)) + (
        1j * rng.standard_normal((m, n)) if kind is complex else 0
    )
    U, _, V = scipy.linalg.svd(draw, full_matrices=False)
    A = (U * np.geomspace(1, 1 / condition, min(m, n))) @ V
    return A, A @ rng.standard_normal(n)


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e9])
@pytest.mark.parametrize("kind", [np.float64, complex])
def test_f_is_the_correction_of_least_norm(condition, kind):
    A, b = random_equations(3, 6, condition, kind)
    x = np.random.default_rng(1).standard_normal((2, 6)) + (0j if kind is complex else 0)
    y = AffineSubspace(torch.from_numpy(A), torch.from_numpy(b))(torch.from_numpy(x)).numpy()
    for found, given in zip(y, x, strict=True):
        expected = given + scipy.linalg.lstsq(A, b - A @ given, cond=1e-13)[0]
        assert np.abs(found - expected).max() < 1e-14 * condition + 1e-13
        assert np.abs(A @ found - b).max() < 1e-13


def test_a_badly_conditioned_matrix_does_not_matter_in_single_precision():
    A, b = random_equations(3, 6, 1e9)
    constraint = AffineSubspace(torch.from_numpy(A), torch.from_numpy(b))
    y = constraint(100 * torch.randn(50, 6))
    assert bool(constraint.contains(y).all())
    assert np.abs(y.double().numpy() @ A.T - b).max() < 1e-4


def test_equations_that_depend_on_each_other_count_once():
    A = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert AffineSubspace(A, [1.0, 2.0, 3.0]).dimension((5, 3)) == 5
    assert AffineSubspace(A, [1.0, 2.0, 3.0]).dimension((5, 3), torch.complex64) == 10
    with pytest.raises(OptionError, match="no y has A y = b"):
        AffineSubspace(A, [1.0, 2.5, 3.0])
    point = AffineSubspace(torch.eye(2), [1.0, 2.0])
    assert point(torch.randn(3, 2)).tolist() == [[1.0, 2.0]] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AffineSubspace([1.0, 2.0]), "one equation is one of one row|expected a matrix"),
        (lambda: AffineSubspace([[1.0, 2.0]], [1.0, 2.0]), "vector of length 1"),
        (lambda: AffineSubspace([[1.0, float("nan")]]), "expected finite numbers"),
        (lambda: Sphere(orthogonal_to=[1.0, 1.0]), r"vector\[None\]"),
        (lambda: Sphere(orthogonal_to=[[1.0, 1.0], [1.0, 0.0]]), "only 0 is orthogonal"),
        (lambda: SumToZero(dim=None), r"SumToZero\(dim=None, joint=True\)"),
    ],
)
def test_options_that_make_no_set_are_refused(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_shapes_and_dtypes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="A has 2 columns"):
        AffineSubspace([[1.0, 2.0]]).check_shape((2, 3))
    with pytest.raises(ShapeError, match="vectors of length 2"):
        Sphere(orthogonal_to=[[1.0, 1.0]]).check_shape((3,))
    with pytest.raises(DtypeError, match="complex constant"):
        AffineSubspace([[1j, 2.0]])(torch.zeros(2))


# sums -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_centred_is_minus_the_means(dtype, offset):
    x = torch.randn(4, 3, 5, dtype=dtype) + offset
    wide = x.to(torch.complex128 if dtype.is_complex else torch.float64).numpy()

    def minus(axes, t=wide):
        for axis in axes:
            t = t - t.mean(axis, keepdims=True)
        return t

    unit = torch.finfo(dtype).eps * (offset + 4)
    for dim, axes in [(-1, (2,)), (0, (0,)), ((0, 2), (0, 2)), ((0, 1, 2), (0, 1, 2))]:
        y = SumToZero(dim=dim)(x)
        assert np.abs(y.numpy() - minus(axes)).max() < 2 * unit
        for axis in axes:
            sums = y.to(torch.complex128 if dtype.is_complex else torch.float64).sum(axis)
            assert float(sums.abs().max()) < 40 * torch.finfo(dtype).eps
        assert bool(SumToZero(dim=dim).contains(y).all())
        if offset:
            assert not bool(SumToZero(dim=dim).contains(x).any())
    joint = SumToZero(dim=(0, 2), joint=True)(x)
    assert np.abs(joint.numpy() - (wide - wide.mean((0, 2), keepdims=True))).max() < 2 * unit
    assert float(SumToZero(dim=None, joint=True)(x).sum().abs()) < 200 * torch.finfo(dtype).eps


@pytest.mark.parametrize("value", [0.1, 7.0, -1e-3])
def test_where_rounding_is_all_that_is_left_y_is_zero(value):
    for n in (3, 10, 1000):
        for y, constraint in [
            (SumToZero()(torch.full((n,), value)), SumToZero()),
            (Traceless()(value * torch.eye(n)), Traceless()),
        ]:
            assert bool(constraint.contains(y))
            assert float(y.abs().max()) <= 8 * torch.finfo(torch.float32).eps * abs(value)


def test_dimensions_of_centred_tensors():
    shape = (4, 3, 5)
    assert SumToZero().dimension(shape) == 4 * 3 * 4
    assert SumToZero(dim=(0, 1)).dimension(shape) == 3 * 2 * 5
    assert SumToZero(dim=(0, 1), joint=True).dimension(shape) == 11 * 5
    assert SumToZero(dim=None, joint=True).dimension(shape, torch.complex64) == 2 * 59
    assert SumToZero(dim=(0, 1)).residual(torch.zeros(shape)).shape == (5,)


def test_least_squares_with_sum_zero_solves_the_kkt_system():
    rng = np.random.default_rng(0)
    X, t = rng.standard_normal((20, 4)), rng.standard_normal(20)
    kkt = np.block([[X.T @ X, np.ones((4, 1))], [np.ones((1, 4)), np.zeros((1, 1))]])
    expected = np.linalg.solve(kkt, np.r_[X.T @ t, 0])[:4]
    w = Parametrized(torch.zeros(4, **double), SumToZero())
    optimizer = torch.optim.LBFGS(
        w.parameters(), max_iter=200, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = (torch.from_numpy(X) @ w.y - torch.from_numpy(t)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert np.abs(w.y.detach().numpy() - expected).max() < 1e-6


# spheres ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128], ids=str)
def test_a_sphere_in_a_subspace_is_the_unit_vector_of_a_projection(dtype):
    A = torch.randn(2, 5, **double)
    constraint = Sphere(3.0, A)
    x = torch.randn(4, 5, dtype=dtype)
    kernel = scipy.linalg.null_space(A.numpy())
    inside = x.numpy() @ kernel @ kernel.T
    expected = 3 * inside / np.linalg.norm(inside, axis=-1, keepdims=True)
    y = constraint(x)
    assert np.abs(y.numpy() - expected).max() < 40 * torch.finfo(dtype).eps
    assert constraint.dimension((4, 5), dtype) == 4 * (5 if dtype.is_complex else 2)
    off = torch.tensor(expected[0] + 0.1 * A[0].numpy() / np.linalg.norm(A[0]), dtype=dtype)
    assert float(constraint.residual(off)) == pytest.approx(0.1, abs=0.01)


def test_vectors_across_the_subspace_start_in_it():
    ones = Sphere(orthogonal_to=[[1.0, 1.0, 1.0]])
    for x in (torch.zeros(3), torch.full((3,), 7.0)):
        leaf = x.clone().requires_grad_()
        y = ones(leaf)
        assert bool(ones.contains(y))
        y[1].backward()
        assert bool(torch.isfinite(leaf.grad).all()) and float(leaf.grad.abs().max()) > 0


def test_the_second_eigenvector_is_the_best_one_orthogonal_to_the_first():
    S = torch.randn(5, 5, **double)
    S = S + S.mT
    values, vectors = np.linalg.eigh(S.numpy())
    w = Parametrized(
        torch.ones(5, **double), Sphere(orthogonal_to=torch.from_numpy(vectors[:, :1].T.copy()))
    )
    optimizer = torch.optim.LBFGS(
        w.parameters(), max_iter=200, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = w.y @ S @ w.y
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(closure().detach()) == pytest.approx(values[1], abs=1e-8)
