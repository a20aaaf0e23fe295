"""Hermitian exponential, contraction, Gram matrix, spectral norm: accuracy, cost, orders, graphs."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch.utils.flop_counter import FlopCounterMode

from constrainedparams.numerics.contraction import contraction, expansion
from constrainedparams.numerics.definite import gram
from constrainedparams.numerics.hermitian_exponential import expm_hermitian
from constrainedparams.numerics.spectral_norm import spectral_norm

SINGLE = [torch.float32, torch.complex64]
WIDE = [torch.float64, torch.complex128]


def wide(dtype):
    return torch.complex128 if dtype.is_complex else torch.float64


def error(found, exact):
    """In Frobenius norms relative to the result, in rounding units."""
    gap = torch.linalg.norm(found.to(exact.dtype) - exact) / torch.linalg.norm(exact)
    return float(gap) / torch.finfo(found.dtype).eps


def pulled(function, x, g):
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    return y.detach(), torch.autograd.grad(y, leaf, g)[0]


def hermitian_matrix(n, dtype, norm):
    x = torch.randn(n, n, dtype=wide(dtype))
    a = x + x.mH
    return (norm / torch.linalg.matrix_norm(a, 2) * a).to(dtype)


def with_values(values, dtype):
    """A square matrix with these singular values."""
    n = len(values)
    u, v = (torch.linalg.qr(torch.randn(n, n, dtype=wide(dtype)))[0] for _ in range(2))
    return ((u * torch.tensor(values, dtype=torch.float64)) @ v.mH).to(dtype)


# the exponential of a Hermitian matrix -----------------------------------------------------------


def plain(x):
    return torch.matrix_exp(0.5 * (x + x.mH))


@pytest.mark.parametrize("norm", [1e-6, 0.1, 3.0, 30.0])
@pytest.mark.parametrize("n", [2, 16, 64])
@pytest.mark.parametrize("dtype", SINGLE, ids=str)
def test_exp_is_as_good_as_rounding_allows(dtype, n, norm):
    """At most torch's error or 4 sqrt(n) units, against torch's in double precision."""
    a, g = hermitian_matrix(n, dtype, norm), torch.randn(n, n, dtype=dtype)
    exact = pulled(plain, a.to(wide(dtype)), g.to(wide(dtype)))
    for found, torchs, true in zip(
        pulled(expm_hermitian, a, g), pulled(plain, a, g), exact, strict=True
    ):
        assert error(found, true) <= max(error(torchs, true), 4 * math.sqrt(n))


@pytest.mark.parametrize("norm", [1e-3, 1.0, 20.0])
def test_exp_and_its_derivative_are_those_of_mpmath(norm):
    n = 5
    a = hermitian_matrix(n, torch.float64, norm)
    g = torch.randn(n, n, dtype=torch.float64)
    g = g + g.mT
    with mpmath.workdps(40):
        block = mpmath.zeros(2 * n)
        for i in range(n):
            for j in range(n):
                block[i, j] = block[n + i, n + j] = float(a[i, j])
                block[i, n + j] = float(g[i, j])
        full = mpmath.expm(block)
        rows = [[float(full[i, j]) for j in range(2 * n)] for i in range(n)]
    exact = torch.tensor(rows, dtype=torch.float64).split(n, dim=1)
    for found, torchs, true in zip(
        pulled(expm_hermitian, a, g), pulled(plain, a, g), exact, strict=True
    ):
        assert error(found, true) <= max(error(torchs, true), 4 * math.sqrt(n) * max(1, norm / 6))


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e6, 1e20])
def test_the_gradient_of_exp_does_not_depend_on_the_size_of_what_comes_in(size):
    a, g = hermitian_matrix(16, torch.float32, 3.0), torch.randn(16, 16)
    one, scaled = pulled(expm_hermitian, a, g)[1], pulled(expm_hermitian, a, size * g)[1]
    assert torch.allclose(scaled.double() / size, one.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("diagonal", [(1.0, 1.0, 1.0), (2.0, 2.0, -1.0), (0.0, 1e-9, 0.0)])
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_repeated_eigenvalues_do_not_disturb_exp(dtype, diagonal):
    a = torch.diag(torch.tensor(diagonal, dtype=dtype)).requires_grad_()
    assert torch.autograd.gradcheck(expm_hermitian, (a,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(expm_hermitian, (a,), check_fwd_over_rev=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
def test_exp_of_a_huge_matrix_is_finite_with_its_derivatives(dtype):
    x = (1e4 * torch.randn(4, 4, dtype=dtype)).requires_grad_()
    y = expm_hermitian(x)
    (first,) = torch.autograd.grad(y, x, torch.randn_like(y) * 1e-30, create_graph=True)
    for t in (y, first):
        assert bool(torch.isfinite(torch.view_as_real(t) if t.is_complex() else t).all())


# the contraction ---------------------------------------------------------------------------------


def formula(x):
    """X L^-H by LAPACK, there and back by torch."""
    l = torch.linalg.cholesky(torch.eye(x.shape[-1], dtype=x.dtype) + x.mH @ x)
    return torch.linalg.solve_triangular(l, x.mH, upper=False).mH


def test_the_contraction_is_that_of_scipy():
    x = np.random.default_rng(0).standard_normal((6, 4))
    l = scipy.linalg.cholesky(np.eye(4) + x.T @ x, lower=True)
    y, factor = contraction(torch.from_numpy(x))
    assert np.abs(y.numpy() - x @ np.linalg.inv(l).T).max() < 1e-14
    assert np.abs(factor.numpy() - l).max() < 1e-14


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("n", [2, 16, 64])
@pytest.mark.parametrize("dtype", SINGLE, ids=str)
def test_the_contraction_is_as_good_as_rounding_allows(dtype, n, scale):
    """At most the error of the formula in the same precision or 4 sqrt(n) units."""
    x, g = scale * torch.randn(n, n, dtype=dtype), torch.randn(n, n, dtype=dtype)
    exact = pulled(formula, x.to(wide(dtype)), g.to(wide(dtype)))
    ours = pulled(lambda x: contraction(x)[0], x, g)
    for found, plain, true in zip(ours, pulled(formula, x, g), exact, strict=True):
        assert error(found, true) <= max(error(plain, true), 4 * math.sqrt(n))


def test_the_contraction_is_that_of_mpmath():
    x = with_values([30.0, 1.0, 1e-3], torch.float64)
    with mpmath.workdps(40):
        m = mpmath.matrix(x.tolist())
        l = mpmath.cholesky(mpmath.eye(3) + m.T * m)
        exact = m * (l**-1).T
        rows = [[float(exact[i, j]) for j in range(3)] for i in range(3)]
    found, exact = contraction(x)[0], torch.tensor(rows, dtype=torch.float64)
    assert error(found, exact) <= max(error(formula(x), exact), 4 * math.sqrt(3))
    single = x.float()
    assert error(contraction(single)[0], formula(single.double())) <= 4 * math.sqrt(3)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_the_gradient_of_the_contraction_does_not_depend_on_the_size_of_what_comes_in(size):
    x, g = torch.randn(12, 8), torch.randn(12, 8)
    one = pulled(lambda x: contraction(x)[0], x, g)[1]
    scaled = pulled(lambda x: contraction(x)[0], x, size * g)[1]
    assert torch.allclose(scaled / size, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [*SINGLE, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e8, 1e25])
def test_the_contraction_stays_in_the_ball_at_any_condition_number(dtype, scale):
    x = scale * with_values([1.0, 0.9, 1e-4, 1e-7, 1e-12, 0.0], dtype)
    y = contraction(x)[0].to(wide(dtype))
    assert float(torch.linalg.matrix_norm(y, 2)) <= 1 + 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_expansion_undoes_the_contraction(dtype):
    for x in (torch.randn(5, 3, dtype=dtype), with_values([1e4, 1.0, 1e-6], dtype)):
        back = expansion(contraction(x)[0], 1e-16)
        # 1 - s of y is 5e-9 at s = 1e4: eight digits of it are lost in y
        assert torch.allclose(back, x, rtol=1e-7, atol=1e-12)


# derivatives, graphs, cost -----------------------------------------------------------------------


FUNCTIONS = {
    "exp": (expm_hermitian, (3, 3)),
    "contraction": (contraction, (4, 3)),
    "contraction of a wide matrix": (contraction, (2, 3)),
    "gram": (gram, (3, 2)),
    "spectral norm": (spectral_norm, (4, 3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_derivatives_of_first_and_second_order_in_both_modes(dtype, name):
    function, shape = FUNCTIONS[name]
    x = torch.randn(2, *shape, dtype=dtype, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x,), check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(
        function, (x,), check_fwd_over_rev=True, fast_mode=True, atol=1e-4
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_hessian_and_compiled_graphs(name):
    function, shape = FUNCTIONS[name]

    def value(x):
        y = function(x)
        return y[0] if isinstance(y, tuple) else y

    def size(x):
        return (value(x) ** 3).sum()

    xs = torch.randn(3, *shape, dtype=torch.float64)
    assert torch.allclose(torch.func.vmap(value)(xs), value(xs))
    slopes = torch.stack([torch.func.grad(size)(x) for x in xs])
    assert torch.allclose(torch.func.vmap(torch.func.grad(size))(xs), slopes)
    forward = torch.func.hessian(size)(xs[0])
    assert torch.allclose(forward, torch.autograd.functional.hessian(size, xs[0]))
    compiled = torch.compile(torch.func.grad(size), fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(xs[0]), slopes[0])


def products(function, x):
    """Matrix products of the size of x there and back (square x)."""
    leaf = x.clone().requires_grad_()
    with FlopCounterMode(display=False) as count:
        torch.autograd.grad(function(leaf), leaf, torch.ones_like(x))
    return count.get_total_flops() / (2 * len(x) ** 3)


@pytest.mark.parametrize(
    ("function", "limit"),
    [(gram, 2), (lambda x: contraction(x)[0], 3), (expm_hermitian, 5)],
    ids=["gram", "contraction", "exp"],
)
def test_products_there_and_back(function, limit):
    """Besides a factorisation and triangular solves, which the counter leaves out."""
    assert products(function, torch.randn(32, 32)) == limit


# the spectral norm -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, *WIDE], ids=str)
def test_the_spectral_norm_is_that_of_numpy(dtype):
    for values in ([3.0, 1.0, 0.5], [2.0, 2.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1 - 1e-5, 0.0]):
        x = with_values(values, dtype)
        exact = np.linalg.norm(x.numpy(), 2)
        assert float(spectral_norm(x)) == pytest.approx(exact, rel=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("turned", [False, True])
def test_where_the_largest_singular_value_repeats_the_gradient_is_a_subgradient(turned):
    q = torch.eye(4, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn_like(q))[0] if turned else q
    q.requires_grad_()
    (g,) = torch.autograd.grad(spectral_norm(q).sum(), q, create_graph=True)
    # Those of |.|_2 at q: matrices with nuclear norm 1 and <g, q> = 1.
    assert float(torch.linalg.matrix_norm(g.detach(), "nuc")) == pytest.approx(1.0)
    assert float((g * q).sum().detach()) == pytest.approx(1.0)
    (second,) = torch.autograd.grad((g * torch.randn_like(q)).sum(), q)
    assert (
        float(second.abs().max()) < 10
    )  # where a difference of equal values were divided by: 1e15


def test_third_derivatives_of_the_spectral_norm():
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    def slope(x):
        (first,) = torch.autograd.grad(spectral_norm(x).sum(), x, create_graph=True)
        return first.square().sum() + (first**3).sum()

    def curvature(x):
        return torch.autograd.grad(slope(x), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(curvature, (x,), atol=1e-4)
