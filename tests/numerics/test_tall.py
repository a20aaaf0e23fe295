"""Tall exp and Cayley maps: against eigenvalues of the dense n x n matrix and mpmath, cost, rules."""

import math

import mpmath
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from constrainedparams.numerics.tall import cayley_tall, exponential_tall

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
MAPS = [exponential_tall, cayley_tall]
both_maps = pytest.mark.parametrize("function", MAPS, ids=lambda f: f.__name__)


def wide(dtype):
    return torch.complex128 if dtype.is_complex else torch.float64


def dense(x):
    """A = [[S, -R^H], [R, 0]], n x n, in double precision."""
    n, k = x.shape
    left = torch.zeros(n, n, dtype=wide(x.dtype))
    left[:, :k] = x.tril(-1)
    a = left - left.mH
    if x.is_complex():
        a[range(k), range(k)] = (1j * x.diagonal().imag).to(a.dtype)
    return a


def tangent(n, k, dtype, norm):
    """A random x with |A| = norm."""
    x = torch.randn(n, k, dtype=wide(dtype))
    return (x * (norm / torch.linalg.matrix_norm(dense(x), 2))).to(dtype)


def exact(function, x, g):
    """Value and gradient by the eigenvalues i p of A, and divided differences without cancellation."""
    k = x.shape[1]
    a = dense(x).to(torch.complex128)
    p, v = torch.linalg.eigh(a / 1j)
    if function is exponential_tall:
        values = torch.exp(1j * p)
        half, mean = (p[:, None] - p) / 2, (p[:, None] + p) / 2
        slopes = torch.exp(1j * mean) * torch.sinc(half / math.pi)
    else:
        inverse = 1 / (1 - 0.5j * p)
        values, slopes = inverse * (1 + 0.5j * p), inverse[:, None] * inverse
    full = torch.zeros_like(a)
    full[:, :k] = g
    pulled = v @ (slopes.conj() * (v.mH @ full @ v)) @ v.mH
    pulled = (pulled - pulled.mH)[:, :k]
    gradient = pulled.tril(-1)
    value = ((v * values) @ v.mH)[:, :k]
    if not x.is_complex():
        return value.real, gradient.real
    gradient.diagonal().copy_(pulled.diagonal() / 2)
    return value, gradient


def both(function, x, g):
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    return y.detach(), torch.autograd.grad(y, leaf, g)[0]


def error(found, true, size=0.0):
    """In Frobenius norms relative to the result (or ``size``), in rounding units."""
    gap = float(torch.linalg.norm(found.to(true.dtype) - true))
    return gap / max(float(torch.linalg.norm(true)), size) / torch.finfo(found.dtype).eps


# accuracy ----------------------------------------------------------------------------------------


@both_maps
@pytest.mark.parametrize("norm", [1e-6, 1e-3, 0.1, 1.2, 3.0, 8.0, 30.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 1), (5, 3), (64, 16), (130, 65)], ids=str)
def test_value_and_gradient_are_as_good_as_rounding_allows(shape, dtype, norm, function):
    n, k = shape
    x, g = tangent(n, k, dtype, norm), torch.randn(n, k, dtype=dtype)
    found, true = both(function, x, g), exact(function, x, g)
    # in double precision P has lost digits to the square, and the oracle's eigenvalues are rounded
    single = torch.finfo(dtype).eps > 1e-10
    allowed = 4 * math.sqrt(n) if single else 12 * math.sqrt(n) * max(1.0, norm / 3)
    assert error(found[0], true[0]) <= allowed
    assert error(found[1], true[1], float(torch.linalg.norm(g)) / 2) <= allowed
    gram = found[0].to(wide(dtype)).mH @ found[0].to(wide(dtype))
    off = torch.linalg.norm(gram - torch.eye(k)) / math.sqrt(k) / torch.finfo(dtype).eps
    assert float(off) <= 2 * allowed


@both_maps
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_a_large_one_is_as_accurate(dtype, function):
    x, g = tangent(512, 64, dtype, 2.0), torch.randn(512, 64, dtype=dtype)
    found, true = both(function, x, g), exact(function, x, g)
    assert max(error(a, b) for a, b in zip(found, true, strict=True)) < 8


@both_maps
@pytest.mark.parametrize("norm", [1e-3, 1.2, 10.0])
def test_value_and_gradient_are_those_of_mpmath(norm, function):
    n, k = 5, 2
    x, g = tangent(n, k, torch.float64, norm), torch.randn(n, k, dtype=torch.float64)
    with mpmath.workdps(40):

        def f(entries):
            a = mpmath.zeros(n)
            for (i, j), value in entries.items():
                a[i, j], a[j, i] = value, -value
            one = mpmath.eye(n)
            full = (
                mpmath.expm(a)
                if function is exponential_tall
                else (one - a / 2) ** -1 * (one + a / 2)
            )
            return [[full[i, j] for j in range(k)] for i in range(n)]

        entries = {(i, j): mpmath.mpf(float(x[i, j])) for i in range(n) for j in range(min(i, k))}
        value = torch.tensor([[float(t) for t in row] for row in f(entries)], dtype=torch.float64)
        slope = torch.zeros(n, k, dtype=torch.float64)
        step = mpmath.mpf(10) ** -13
        for place in entries:
            up, down = (f(entries | {place: entries[place] + s}) for s in (step, -step))
            slope[place] = float(
                sum(
                    float(g[i, j]) * (up[i][j] - down[i][j]) / (2 * step)
                    for i in range(n)
                    for j in range(k)
                )
            )
    y, pulled = both(function, x, g)
    allowed = 4 * math.sqrt(n) * max(1.0, norm / 3)
    assert error(y, value) <= allowed
    assert error(pulled, slope, float(torch.linalg.norm(g)) / 2) <= allowed


@both_maps
@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e-3, 1e3, 1e6, 1e20])
def test_the_gradient_does_not_depend_on_the_size_of_what_comes_in(size, function):
    x, g = tangent(40, 8, torch.float32, 1.0), torch.randn(40, 8)
    true = exact(function, x, g)[1]
    assert error(both(function, x, size * g)[1] / size, true) < 4


@both_maps
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_ill_conditioned_rests_and_repeated_singular_values(condition, dtype, function):
    """Squared, single precision would not hold 1 beside 1e-12."""
    n, k = 40, 6
    u = torch.linalg.qr(torch.randn(n - k, k, dtype=wide(dtype)))[0]
    v = torch.linalg.qr(torch.randn(k, k, dtype=wide(dtype)))[0]
    sigma = torch.tensor([2.0, 2.0, 2.0, 2 / condition, 2 / condition, 2 / condition])
    rest = (u * sigma.double()) @ v.mH
    x = torch.cat((torch.zeros(k, k, dtype=rest.dtype), rest)).to(dtype)
    g = torch.randn(n, k, dtype=dtype)
    for found, true in zip(both(function, x, g), exact(function, x, g), strict=True):
        assert error(found, true) < 6


@both_maps
@pytest.mark.parametrize("count", [3, 30])
def test_a_large_matrix_does_not_cost_its_batch_digits(count, function):
    x = torch.stack([tangent(9, 3, torch.float32, norm) for norm in [1e3] + [1e-2] * (count - 1)])
    g = torch.randn(count, 9, 3)
    found, true = both(function, x, g), exact(function, x[1], g[1])
    assert error(found[0][1], true[0]) < 2
    assert error(found[1][1], true[1]) < 6


@both_maps
@pytest.mark.parametrize("count", [2, 30])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_matrix(value, count, function):
    x = torch.stack([tangent(6, 2, torch.float32, 1.0) for _ in range(count)])
    alone = function(x[-1])
    x[0, 4, 1] = value
    y = function(x)
    assert not y[0].isfinite().all()
    assert torch.allclose(y[-1], alone, atol=1e-6)


# cost --------------------------------------------------------------------------------------------


def products(function, x):
    """In units of n k^2."""
    n, k = x.shape[-2:]
    leaf = x.clone().requires_grad_()
    with FlopCounterMode(display=False) as count:
        torch.autograd.grad(function(leaf), leaf, torch.randn_like(leaf))
    return count.get_total_flops() / (2 * n * k * k)


@pytest.mark.parametrize(
    ("function", "norm", "shape", "most"),
    [
        (exponential_tall, 0.05, (1024, 64), 7),
        (exponential_tall, 1.0, (1024, 64), 8),
        (exponential_tall, 2.5, (1024, 64), 10.1),
        (exponential_tall, 2.5, (4096, 64), 6.3),
        (cayley_tall, 2.0, (1024, 64), 5.2),
        (cayley_tall, 2.0, (4096, 64), 5.1),
    ],
)
def test_products_there_and_back(function, norm, shape, most):
    """Five of them with n rows; the others are k x k."""
    x = torch.randn(shape)
    k = shape[1]
    assert products(function, x * (norm / (k**0.5 + shape[0] ** 0.5) / 1.05)) <= most


@both_maps
def test_the_peak_is_at_most_six_weights(function, allocations):
    """With y and the gradient of x, two of the six; single precision is where it is hard."""
    x, g = torch.randn(4096, 16, requires_grad=True), torch.randn(4096, 16)

    def step():
        return torch.autograd.grad(function(x), x, g)

    _, peak = allocations(step)
    assert 2 <= peak / x.nbytes <= 5


# derivatives of all orders and transformations ---------------------------------------------------


@both_maps
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(3, 1), (2, 4, 2), (2, 1, 3, 2)], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 5.0])
def test_first_and_second_derivatives(scale, shape, dtype, function):
    leaf = (scale * torch.randn(shape, dtype=dtype)).requires_grad_()
    assert torch.autograd.gradcheck(
        function, leaf, check_forward_ad=True, check_batched_grad=True, check_undefined_grad=True
    )
    assert torch.autograd.gradgradcheck(function, leaf, check_fwd_over_rev=True)


@both_maps
def test_the_two_ways_back_agree(function):
    x, g = tangent(9, 3, torch.float64, 2.0), torch.randn(9, 3, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(function(leaf), leaf, g)
    (traced,) = torch.autograd.grad(function(leaf), leaf, g, create_graph=True)
    assert traced.requires_grad
    assert torch.allclose(plain, traced, rtol=0, atol=1e-13)


@both_maps
def test_transformations(function):
    def loss(x):
        return function(x).sin().sum()

    x = torch.randn(4, 5, 2, dtype=torch.float64)
    loop = torch.stack([function(t) for t in x])
    assert torch.allclose(torch.func.vmap(function)(x), loop, atol=1e-13)
    along = torch.func.vmap(function, in_dims=2, out_dims=2)(x.permute(1, 2, 0))
    assert torch.allclose(along.permute(2, 0, 1), loop, atol=1e-13)
    twice = torch.func.vmap(torch.func.vmap(function))(x.reshape(2, 2, 5, 2))
    assert torch.allclose(twice.reshape(4, 5, 2), loop, atol=1e-13)
    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    assert torch.allclose(torch.func.vmap(torch.func.grad(loss))(x), leaf.grad, atol=1e-13)
    again = torch.func.jacrev(torch.func.jacrev(loss))(x[0])
    assert torch.allclose(torch.func.jacfwd(torch.func.jacrev(loss))(x[0]), again, atol=1e-12)
    assert torch.allclose(torch.func.jacrev(torch.func.jacfwd(loss))(x[0]), again, atol=1e-12)


@both_maps
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("view", ["plain", "mH", "conj"])
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
def test_compiled_is_eager(view, dtype, backend, function):
    """Lazy conjugation is off in compiled graphs: views of both kinds must be read right."""
    torch.compiler.reset()
    see = {"plain": lambda t: t, "mH": lambda t: t.mH, "conj": torch.conj}[view]
    shape = (2, 2, 5) if view == "mH" else (2, 5, 2)
    x, g = torch.randn(shape, dtype=dtype), torch.randn(2, 2, 5, dtype=dtype).mH
    compiled = torch.compile(lambda t: function(see(t)), fullgraph=True, backend=backend)
    eager = both(lambda t: function(see(t)), x, g)
    for found, true in zip(both(compiled, x, g), eager, strict=True):
        assert torch.allclose(found, true, atol=1e-6)


def test_operations_keep_the_rules_of_torch_library():
    x = torch.randn(2, 5, 2, requires_grad=True)
    torch.library.opcheck(torch.ops.constrainedparams.exponential_tall, (x,))
    torch.library.opcheck(
        torch.ops.constrainedparams.exponential_tall_pullback, (torch.randn(2, 5, 2), x.detach())
    )
    assert exponential_tall(torch.empty(2, 5, 2, device="meta")).shape == (2, 5, 2)


@both_maps
@pytest.mark.parametrize("shape", [(3, 0), (0, 3, 2)], ids=str)
def test_empty_matrices_and_batches(shape, function):
    leaf = torch.zeros(shape, requires_grad=True)
    function(leaf).sum().backward()
    assert leaf.grad.shape == shape


@both_maps
def test_the_input_and_what_was_kept_stay_as_they_are(function):
    x = tangent(7, 2, torch.float64, 4.0)
    before, leaf = x.clone(), x.requires_grad_()
    y = function(leaf)
    g = torch.randn(7, 2, dtype=torch.float64)
    first = torch.autograd.grad(y, leaf, g, retain_graph=True)[0]
    y.detach().zero_()
    assert torch.equal(torch.autograd.grad(y, leaf, g)[0], first)
    assert torch.equal(leaf, before)
