"""The polar factor: against mpmath and SVDs in more digits, at every condition number, and rules."""

import math

import mpmath
import pytest
import scipy.linalg
import torch
from torch.utils.flop_counter import FlopCounterMode

from constrainedparams.numerics.polar import inverse_square_root, polar_factor

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
SHAPES = [(2, 1), (3, 3), (5, 2), (64, 16), (32, 32), (130, 65)]


def wide(dtype):
    return torch.complex128 if dtype.is_complex else torch.float64


def matrix(n, k, dtype, condition, repeated=False):
    """Singular values from 1 down to 1 / condition, each but these two of them if repeated."""
    u = torch.linalg.qr(torch.randn(n, k, dtype=wide(dtype)))[0]
    v = torch.linalg.qr(torch.randn(k, k, dtype=wide(dtype)))[0]
    s = torch.logspace(0, -math.log10(condition), k, dtype=torch.float64)
    s = torch.where(s > s.median(), 1.0, 1 / condition).double() if repeated else s
    return ((u * s) @ v.mH).to(dtype)


def exact(x, g):
    """By the SVD in double precision; its gradient by sums of singular values."""
    x, g = x.to(wide(x.dtype)), g.to(wide(x.dtype))
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    c = (u @ vh).mH @ g
    z = vh.mH @ ((vh @ (c - c.mH) @ vh.mH) / (s[:, None] + s)) @ vh
    rest = ((g - u @ (u.mH @ g)) @ vh.mH / s) @ vh
    return u @ vh, u @ vh @ z + (rest if x.shape[0] > x.shape[1] else 0 * rest)


def both(x, g, function=polar_factor):
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    return y.detach(), torch.autograd.grad(y, leaf, g)[0]


def by_svd(x):
    """What torch offers."""
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return u @ vh


def error(found, true):
    """In Frobenius norms relative to the result, in rounding units."""
    gap = torch.linalg.norm(found.to(true.dtype) - true)
    return float(gap / torch.linalg.norm(true)) / torch.finfo(found.dtype).eps


def defect(y):
    gram = y.to(wide(y.dtype)).mH @ y.to(wide(y.dtype))
    k = y.shape[-1]
    return float(torch.linalg.norm(gram - torch.eye(k))) / k**0.5 / torch.finfo(y.dtype).eps


# accuracy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeated", [False, True], ids=["spread", "repeated"])
@pytest.mark.parametrize("condition", [1.0, 2.0, 30.0, 900.0, 1.1e3, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_single_precision_is_right_at_every_condition_number(shape, dtype, condition, repeated):
    x, g = matrix(*shape, dtype, condition, repeated), torch.randn(shape, dtype=dtype)
    found, true = both(x, g), exact(x, g)
    allowed = 4 * math.sqrt(shape[0])
    assert error(found[0], true[0]) <= 2
    assert error(found[1], true[1]) <= allowed
    assert defect(found[0]) <= 3


@pytest.mark.parametrize("condition", [1.0, 30.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(2, 1), (3, 3), (5, 2), (64, 16)], ids=str)
def test_double_precision_is_that_of_scipy(shape, dtype, condition):
    x = matrix(*shape, dtype, condition)
    y = polar_factor(x)
    true = torch.from_numpy(scipy.linalg.polar(x.numpy())[0])
    assert error(y, true) <= 8 * condition
    assert defect(y) <= 8


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_value_and_gradient_are_those_of_mpmath(dtype, condition):
    """The gradient by differences in 60 digits: no formula is shared."""
    n, k = 4, 2
    x, g = matrix(n, k, dtype, condition), torch.randn(n, k, dtype=dtype)
    with mpmath.workdps(60):
        exactly = mpmath.matrix([[mpmath.mpf(float(t)) for t in row] for row in x])

        def f(m):
            e, q = mpmath.eigsy(m.T * m)
            return m * q * mpmath.diag([1 / mpmath.sqrt(t) for t in e]) * q.T

        value = f(exactly)
        slope = torch.zeros(n, k, dtype=torch.float64)
        step = mpmath.mpf(10) ** -25
        for i in range(n):
            for j in range(k):
                up, down = exactly.copy(), exactly.copy()
                up[i, j] += step
                down[i, j] -= step
                change = (f(up) - f(down)) / (2 * step)
                slope[i, j] = float(
                    sum(float(g[a, b]) * change[a, b] for a in range(n) for b in range(k))
                )
        value = torch.tensor(
            [[float(value[i, j]) for j in range(k)] for i in range(n)], dtype=torch.float64
        )
    y, pulled = both(x, g)
    limit = 1 if dtype == torch.float32 else condition
    assert error(y, value) <= 4 * limit
    assert error(pulled, slope) <= 8 * limit


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_it_is_never_worse_than_the_svd_of_torch(condition):
    x, g = matrix(40, 12, torch.float32, condition), torch.randn(40, 12)
    true, ours, torchs = exact(x, g), both(x, g), both(x, g, by_svd)
    for a, b, c in zip(ours, torchs, true, strict=True):
        assert not error(a, c) > error(b, c)  # equal singular values: torch's is NaN


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e-3, 1e3, 1e6, 1e20])
def test_the_gradient_does_not_depend_on_the_size_of_what_comes_in(size):
    x, g = matrix(20, 6, torch.float32, 100.0), torch.randn(20, 6)
    assert error(both(x, size * g)[1] / size, exact(x, g)[1]) < 4


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e3, 1e30])
@pytest.mark.parametrize("shape", [(5, 2), (4, 4)], ids=str)
def test_the_scale_of_x_changes_nothing(shape, size):
    x = torch.randn(shape)
    y, pulled = both(x, torch.ones(shape))
    scaled, smaller = both(size * x, torch.ones(shape))
    assert torch.allclose(scaled, y, atol=1e-6)
    assert torch.allclose(size * smaller, pulled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(6, 3), (3, 3)], ids=str)
def test_a_rank_deficient_matrix_has_a_nearest_one_and_a_finite_gradient(shape, dtype, rank):
    x = torch.randn(shape[0], rank, dtype=dtype) @ torch.randn(rank, 3, dtype=dtype)
    y, pulled = both(x, torch.randn(shape, dtype=dtype))
    assert defect(y) < 8
    assert pulled.isfinite().all()
    # nearest: |x - y|^2 = |x|^2 + k - 2 sum of singular values
    nuclear = torch.linalg.matrix_norm(x, "nuc")
    assert torch.allclose((x.conj() * y).real.sum(), nuclear, rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_matrix(value, dtype):
    x = torch.randn(3, 5, 2, dtype=dtype)
    alone = polar_factor(x[-1])
    x[0, 4, 1] = value
    y = polar_factor(x)
    assert not y[0].isfinite().all()
    assert torch.allclose(y[-1], alone, atol=1e-6)


# cost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "most"), [((1024, 64), 5.4), ((4096, 64), 5.1)])
def test_products_there_and_back(shape, most):
    """In units of n k^2: two there and three back have n rows."""
    leaf, g = torch.randn(shape, requires_grad=True), torch.randn(shape)
    with FlopCounterMode(display=False) as count:
        torch.autograd.grad(polar_factor(leaf), leaf, g)
    assert count.get_total_flops() / (2 * shape[0] * shape[1] ** 2) <= most


def test_the_peak_is_at_most_six_weights(allocations):
    x, g = torch.randn(4096, 16, requires_grad=True), torch.randn(4096, 16)

    def step():
        return torch.autograd.grad(polar_factor(x), x, g)

    _, peak = allocations(step)
    assert 2 <= peak / x.nbytes <= 5


# derivatives of all orders and transformations ---------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(3, 1), (3, 3), (2, 4, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("kind", ["random", "orthonormal", "repeated"])
def test_first_and_second_derivatives(kind, shape, dtype):
    x = torch.randn(shape, dtype=dtype)
    if kind != "random":
        x = torch.linalg.qr(x)[0]
    if kind == "repeated":
        x[..., -1] *= 3
    leaf = x.requires_grad_()
    assert torch.autograd.gradcheck(
        polar_factor,
        leaf,
        check_forward_ad=True,
        check_batched_grad=True,
        check_undefined_grad=True,
    )
    assert torch.autograd.gradgradcheck(polar_factor, leaf, check_fwd_over_rev=True)


def test_third_derivative():
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    one = torch.tensor(1.0, dtype=torch.float64)
    y = polar_factor(torch.stack((one, t)).unsqueeze(-1))[1, 0]  # t / sqrt(1 + t^2)
    for _ in range(3):
        (y,) = torch.autograd.grad(y, t, create_graph=True)
    # third derivative: (12 t^2 - 3) / (1 + t^2)^(7/2)
    assert y.item() == pytest.approx((12 * 0.16 - 3) / 1.16**3.5, rel=1e-10)


def loss(x):
    return polar_factor(x).sin().sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_transformations(dtype):
    tight = {"atol": 1e-12 if dtype == torch.float64 else 1e-4}
    x = torch.randn(4, 5, 2, dtype=dtype)
    loop = torch.stack([polar_factor(t) for t in x])
    assert torch.allclose(torch.func.vmap(polar_factor)(x), loop, **tight)
    along = torch.func.vmap(polar_factor, in_dims=2, out_dims=2)(x.permute(1, 2, 0))
    assert torch.allclose(along.permute(2, 0, 1), loop, **tight)
    twice = torch.func.vmap(torch.func.vmap(polar_factor))(x.reshape(2, 2, 5, 2))
    assert torch.allclose(twice.reshape(4, 5, 2), loop, **tight)
    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    assert torch.allclose(torch.func.vmap(torch.func.grad(loss))(x), leaf.grad, **tight)
    again = torch.func.jacrev(torch.func.jacrev(loss))(x[0])
    assert torch.allclose(torch.func.jacfwd(torch.func.jacrev(loss))(x[0]), again, **tight)
    assert torch.allclose(torch.func.jacrev(torch.func.jacfwd(loss))(x[0]), again, **tight)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("view", ["plain", "mH", "conj"])
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
def test_compiled_is_eager(view, dtype, backend):
    torch.compiler.reset()
    see = {"plain": lambda t: t, "mH": lambda t: t.mH, "conj": torch.conj}[view]
    shape = (2, 2, 5) if view == "mH" else (2, 5, 2)
    x, g = torch.randn(shape, dtype=dtype), torch.randn(2, 2, 5, dtype=dtype).mH
    compiled = torch.compile(lambda t: polar_factor(see(t)), fullgraph=True, backend=backend)
    eager = both(x, g, lambda t: polar_factor(see(t)))
    for found, true in zip(both(x, g, compiled), eager, strict=True):
        assert torch.allclose(found, true, atol=1e-5)


def test_operations_keep_the_rules_of_torch_library():
    x = torch.randn(2, 5, 2, requires_grad=True)
    torch.library.opcheck(torch.ops.constrainedparams.polar_factor, (x,))
    torch.library.opcheck(
        torch.ops.constrainedparams.polar_factor_pullback, (torch.randn(2, 5, 2), x.detach())
    )
    p = x.mT @ x
    torch.library.opcheck(torch.ops.constrainedparams.sylvester, (p.detach(), torch.randn(2, 2, 2)))
    assert polar_factor(torch.empty(2, 5, 2, device="meta")).shape == (2, 5, 2)


@pytest.mark.parametrize("shape", [(3, 0), (0, 3, 2)], ids=str)
def test_empty_matrices_and_batches(shape):
    leaf = torch.zeros(shape, requires_grad=True)
    polar_factor(leaf).sum().backward()
    assert leaf.grad.shape == shape


# inverse square roots -----------------------------------------------------------------------------


def definite(n, dtype, condition, repeated=False):
    q = torch.linalg.qr(torch.randn(n, n, dtype=wide(dtype)))[0]
    e = torch.logspace(0, -math.log10(condition), n, dtype=torch.float64)
    e = torch.where(e > e.median(), 1.0, 1 / condition).double() if repeated else e
    a = (q * e) @ q.mH
    return (0.5 * (a + a.mH)).to(dtype)


@pytest.mark.parametrize("repeated", [False, True], ids=["spread", "repeated"])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("n", [1, 2, 16, 64])
def test_inverse_square_roots_in_single_precision_are_right_to_rounding(
    n, dtype, condition, repeated
):
    """By eigenvalues in double, and their divided differences in sums of roots."""
    a, g = definite(n, dtype, condition, repeated), torch.randn(n, n, dtype=dtype)
    root, pulled = both(a, g + g.mH, inverse_square_root)
    e, v = torch.linalg.eigh(a.to(wide(dtype)))
    s = e.sqrt()
    slopes = -1 / (s[:, None] * s * (s[:, None] + s))
    inner = v.mH @ (g + g.mH).to(v.dtype) @ v
    assert error(root, (v / s) @ v.mH) <= 1
    assert error(0.5 * (pulled + pulled.mH), v @ (slopes * inner) @ v.mH) <= 1


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_inverse_square_roots_are_those_of_mpmath(condition):
    """As near as rounding of A allows: off by the condition number."""
    a = definite(5, torch.float64, condition)
    with mpmath.workdps(60):
        e, q = mpmath.eigsy(mpmath.matrix(a.tolist()))
        exact = q * mpmath.diag([1 / mpmath.sqrt(t) for t in e]) * q.T
        true = torch.tensor([[float(t) for t in row] for row in exact.tolist()], dtype=a.dtype)
    peer = torch.from_numpy(scipy.linalg.inv(scipy.linalg.sqrtm(a.numpy())).real)
    assert error(inverse_square_root(a), true) <= 2 * max(error(peer, true), 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("kind", ["spread", "repeated", "identity"])
def test_derivatives_of_inverse_square_roots(kind, dtype):
    a = (
        torch.eye(3, dtype=dtype)
        if kind == "identity"
        else definite(3, dtype, 9.0, kind != "spread")
    )

    def f(x):
        return inverse_square_root(a + x + x.mH)

    leaf = torch.zeros(3, 3, dtype=dtype, requires_grad=True)
    assert torch.autograd.gradcheck(f, leaf, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, leaf)


def test_inverse_square_roots_of_batches_compiled_and_of_what_is_not_definite():
    a = torch.stack([definite(3, torch.float64, 10.0) for _ in range(2)])
    loop = torch.stack([inverse_square_root(t) for t in a])
    assert torch.allclose(torch.func.vmap(inverse_square_root)(a), loop)
    compiled = torch.compile(inverse_square_root, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(a), loop)
    a[0] = -a[0]
    found = inverse_square_root(a)
    assert found[0].isnan().any() and torch.allclose(found[1], loop[1])
