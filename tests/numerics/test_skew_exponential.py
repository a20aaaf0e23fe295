"""exp of skew-Hermitian matrices: against mpmath and eigenvalues, its cost in products, its rules."""

import copy
import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from constrainedparams.numerics import skew_exponential as module
from constrainedparams.numerics.skew_exponential import expm_skew

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
REAL = [torch.float32, torch.float64]
NORMS = [1e-6, 1e-3, 0.05, 0.1, 0.5, 1.2, 2.0, 3.0, 6.5, 30.0]


def skew(n, dtype, norm=1.0, batch=()):
    """A random skew-Hermitian matrix of that spectral norm."""
    x = torch.randn(*batch, n, n, dtype=torch.complex128 if dtype.is_complex else torch.float64)
    a = x - x.mH
    size = torch.linalg.matrix_norm(a, 2, keepdim=True).clamp_min(1e-300)
    return (a * (norm / size)).to(dtype)


def exact(a, g):
    """exp(A) and the skew-Hermitian part of its pullback of G, by eigenvalues in float64.

    The divided difference of exp at i p, i q is exp(i (p + q)/2) sinc((p - q)/2): no cancellation.
    """
    p, v = torch.linalg.eigh(a.to(torch.complex128) / 1j)
    mean, half = (p[:, None] + p) / 2, (p[:, None] - p) / 2
    slopes = torch.exp(1j * mean) * torch.sinc(half / math.pi)
    pulled = v @ (slopes.conj() * (v.mH @ g.to(torch.complex128) @ v)) @ v.mH
    return (v * torch.exp(1j * p)) @ v.mH, (pulled - pulled.mH) / 2


def error(found, wanted, size=0.0):
    """In Frobenius norms relative to the result (or ``size``), in rounding units."""
    gap = torch.linalg.norm(found.to(wanted.dtype) - wanted)
    return float(gap) / max(float(torch.linalg.norm(wanted)), size) / torch.finfo(found.dtype).eps


def usual(g):
    """The size of the skew part of a random G; a much smaller result has lost digits to G's own."""
    return float(torch.linalg.norm(g)) / math.sqrt(2)


def both(function, a, g):
    leaf = a.clone().requires_grad_()
    y = function(leaf)
    (pulled,) = torch.autograd.grad(y, leaf, g)
    return y.detach(), (pulled - pulled.mH) / 2


def products(a, g):
    """Matrix products of size n there and back."""
    n = a.shape[-1]
    leaf = a.clone().requires_grad_()
    with FlopCounterMode(display=False) as count:
        torch.autograd.grad(expm_skew(leaf), leaf, g)
    return count.get_total_flops() / (2 * n**3 * a.numel() / n**2)


# accuracy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [2, 3, 16, 64, 128])
def test_value_and_gradient_are_as_good_as_rounding_allows(n, dtype, norm):
    """At most 4 sqrt(n) units, growing with the norm (30 is conditioned so), or torch's."""
    a, g = skew(n, dtype, norm), torch.randn(n, n, dtype=dtype)
    found, torchs, true = both(expm_skew, a, g), both(torch.matrix_exp, a, g), exact(a, g)
    single = torch.finfo(dtype).eps > 1e-10
    # in double precision the eigenvalues of the oracle are rounded as well
    allowed = (4 if single else 12) * math.sqrt(n) * max(1.0, norm / 6)
    for i, size in enumerate((0.0, usual(g))):
        limit = max(allowed, error(torchs[i], true[i], size) if single else 0.0)
        assert error(found[i], true[i], size) <= limit


@pytest.mark.parametrize("norm", [26.5, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_doublings_do_not_multiply_the_error_of_the_polynomial(dtype, norm):
    n, off = 16, [0.0, 0.0]
    for _ in range(8):
        a, g = skew(n, dtype, norm), torch.randn(n, n, dtype=dtype)
        pairs = zip(both(expm_skew, a, g), exact(a, g), strict=True)
        off = [total + error(*pair) ** 2 / 8 for total, pair in zip(off, pairs, strict=True)]
    assert max(off) ** 0.5 <= 4 * math.sqrt(n)


@pytest.mark.parametrize("norm", [1e-6, 0.1, 1.2, 3.0, 30.0])
@pytest.mark.parametrize("n", [1, 4, 12])
def test_value_and_gradient_are_those_of_mpmath(n, norm):
    a, g = skew(n, torch.float64, norm), torch.randn(n, n, dtype=torch.float64)
    with mpmath.workdps(40):
        block = mpmath.zeros(2 * n)
        for i in range(n):
            for j in range(n):
                block[i, j] = block[n + i, n + j] = float(a[j, i])
                block[i, n + j] = float(g[i, j])
        full, r = mpmath.expm(block), range(n)
        value = torch.tensor([[float(full[j, i]) for j in r] for i in r], dtype=torch.float64)
        slope = torch.tensor([[float(full[i, n + j]) for j in r] for i in r], dtype=torch.float64)
    slope = (slope - slope.mT) / 2
    y, pulled = both(expm_skew, a, g)
    allowed = 4 * math.sqrt(n) * max(1.0, norm / 6)
    assert error(y, value) <= allowed
    assert error(pulled, slope, usual(g)) <= allowed


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e-3, 1e3, 1e6, 1e20])
@pytest.mark.parametrize("norm", [0.05, 1.0, 5.0])
def test_the_gradient_does_not_depend_on_the_size_of_what_comes_in(norm, size):
    a, g = skew(32, torch.float32, norm), torch.randn(32, 32)
    _, one = both(expm_skew, a, g)
    _, scaled = both(expm_skew, a, size * g)
    assert error(scaled.double() / size, one.double()) * torch.finfo(torch.float64).eps < 1e-6


@pytest.mark.parametrize("name", ["_SINGLE", "_SINGLE_SMALL", "_DOUBLE"])
def test_each_polynomial_is_near_to_exp_with_its_derivative(name):
    """On the whole segment, in 30 digits: the table is right, not only its results."""
    eps = 2**-52 if name == "_DOUBLE" else 2**-23
    near, nearer = (15, 6) if name == "_SINGLE" else (6, 6)
    reaches = [reach for reach, _ in getattr(module, name)]
    assert reaches == sorted(reaches)
    with mpmath.workdps(30):
        for reach, c in getattr(module, name):
            assert len(c) % 4 == 1
            for step in range(201):
                x = mpmath.mpc(0, reach * step / 200)
                slope = sum(k * v * x ** (k - 1) for k, v in enumerate(c) if k)
                assert abs(sum(v * x**k for k, v in enumerate(c)) - mpmath.exp(x)) < nearer * eps
                assert abs(slope - mpmath.exp(x)) < near * eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_repeated_eigenvalues(dtype):
    n = 24
    q = torch.linalg.qr(torch.randn(n, n, dtype=dtype))[0]
    j = torch.zeros(n, n, dtype=dtype)
    for i in range(0, n - 4, 2):
        j[i, i + 1], j[i + 1, i] = 0.7, -0.7
    a = q @ j @ q.mH
    a, g = (a - a.mH) / 2, torch.randn(n, n, dtype=dtype)
    for found, true in zip(both(expm_skew, a, g), exact(a, g), strict=True):
        assert error(found, true) < 4 * math.sqrt(n)


def test_a_large_matrix_does_not_cost_its_batch_digits():
    a = torch.stack((skew(8, torch.float32, 1e4), skew(8, torch.float32, 1e-2)))
    g = torch.randn(2, 8, 8)
    found, true = both(expm_skew, a, g), exact(a[1], g[1])
    assert error(found[0][1], true[0]) < 4
    assert error(found[1][1], true[1]) < 8


@pytest.mark.parametrize("count", [3, 30])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_what_is_not_finite_stays_in_its_matrix_and_ends(value, place, count):
    a = skew(6, torch.float32, 1.0, (count,))
    alone = expm_skew(a[-1])
    a[place, 2, 3] = value
    leaf = a.clone().requires_grad_()
    y = expm_skew(leaf)
    y.sum().backward()
    assert not y[place].isfinite().all()
    if not math.isfinite(value):
        assert torch.allclose(y[-1], alone, atol=1e-6)
        assert leaf.grad[-1].isfinite().all()


@pytest.mark.parametrize("norm", [1e4, 1e5])
def test_very_large_norms_stay_nearly_unitary(norm):
    a = skew(8, torch.float32, norm)
    y = expm_skew(a)
    assert torch.linalg.norm(y.mT @ y - torch.eye(8)) < 4 * norm * 1.2e-7 * math.sqrt(8)
    assert error(expm_skew(a.double()), exact(a.double(), a)[0]) < 20 * norm


@given(
    n=st.integers(1, 20),
    exponent=st.integers(-45, 4),
    rank=st.integers(0, 20),
    double=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None)
def test_any_size_rank_and_magnitude(n, exponent, rank, double, seed):
    """Unitary, exp(A) exp(-A) = I, a linear pullback that is skew, and a bound that is one."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n, dtype=torch.float64, generator=draw)
    x[rank:], x[:, rank:] = 0, 0
    a = (10.0**exponent * (x - x.mT)).to(torch.float64 if double else torch.float32)
    norm = float(torch.linalg.matrix_norm(a.double(), 2))
    eps = torch.finfo(a.dtype).eps
    leaf = a.clone().requires_grad_()
    y = expm_skew(leaf)
    allowed = 8 * n * eps * max(1.0, norm)
    value = y.detach()
    assert float((value.mT @ value - torch.eye(n, dtype=a.dtype)).abs().max()) <= allowed
    assert float((expm_skew(-a) - value.mT).abs().max()) <= allowed
    g = torch.randn(n, n, dtype=a.dtype, generator=draw)
    (pulled,) = torch.autograd.grad(y, leaf, g)
    assert pulled.isfinite().all()
    assert torch.equal(pulled, -pulled.mT)
    plan = module._chain(a)[0]
    assert plan.norm >= norm * (1 - 1e-5) or norm < 1e-4


# cost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "most"), [(0.1, 5), (1.2, 8), (3.0, 11), (6.0, 14), (12.0, 17), (24.0, 20)]
)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_products_there_and_back(norm, most, batch):
    """Single precision; 3 for each doubling."""
    a = skew(64, torch.float32, norm, batch)
    assert products(a, torch.randn_like(a)) <= most


@pytest.mark.parametrize(("norm", "most"), [(5e-4, 5), (0.08, 8), (0.5, 11), (1.4, 14), (2.8, 17)])
def test_products_there_and_back_in_double_precision(norm, most):
    a = skew(64, torch.float64, norm)
    assert products(a, torch.randn_like(a)) <= most


def test_large_batches_cost_as_much_a_matrix():
    a = skew(16, torch.float32, 1.0, (40,))
    assert products(a, torch.randn_like(a)) == 8


@pytest.mark.parametrize("n", [8, 64, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("kind", ["normal", "even", "flat", "two"])
def test_the_bound_of_the_norm_is_sharp_and_one(kind, dtype, n):
    """At most 1.3 times the norm, whatever the eigenvalues are; never below it."""
    a = skew(n, dtype, 1.0)
    p, v = torch.linalg.eigh(a.to(torch.complex128) / 1j)
    if kind != "normal":
        rank = p.abs().argsort().argsort() // (1 if dtype.is_complex else 2)
        size = {"even": rank + 0.5, "flat": rank * 0 + 1.0, "two": rank == rank.max()}[kind]
        a = (v * (1j * p.sgn() * size / size.max())) @ v.mH
        a = a.to(dtype) if dtype.is_complex else a.real.to(dtype)
    assert 1 - 1e-5 <= module._chain(a)[0].norm <= 1.3


# derivatives of all orders and transformations ---------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 3, 3), (2, 1, 2, 2)], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 3.0])
def test_first_and_second_derivatives(scale, shape, dtype):
    leaf = (scale * torch.randn(shape, dtype=dtype)).requires_grad_()
    assert torch.autograd.gradcheck(
        expm_skew, leaf, check_forward_ad=True, check_batched_grad=True, check_undefined_grad=True
    )
    assert torch.autograd.gradgradcheck(expm_skew, leaf, check_fwd_over_rev=True)


@pytest.mark.parametrize("norm", [0.05, 1.0, 2.5, 9.0])
def test_second_derivatives_in_single_precision(norm):
    """The polynomials of the first order are no use here: their second derivative is 1e-4 off."""
    a, g, h = skew(20, torch.float32, norm), torch.randn(20, 20), torch.randn(20, 20)

    def second(function, dtype):
        leaf = a.to(dtype).requires_grad_()
        half = function((leaf - leaf.mT) / 2)
        (first,) = torch.autograd.grad(half, leaf, g.to(dtype), create_graph=True)
        return torch.autograd.grad(first, leaf, h.to(dtype))[0]

    assert error(second(expm_skew, torch.float32), second(torch.matrix_exp, torch.float64)) < 30


def test_the_two_ways_back_agree():
    a, g = skew(10, torch.float64, 2.0), torch.randn(10, 10, dtype=torch.float64)
    leaf = a.clone().requires_grad_()
    (plain,) = torch.autograd.grad(expm_skew(leaf), leaf, g)
    (traced,) = torch.autograd.grad(expm_skew(leaf), leaf, g, create_graph=True)
    assert traced.requires_grad
    assert torch.allclose(plain, traced, rtol=0, atol=1e-13)


def test_forward_mode_over_the_way_back():
    """A tangent of x must reach the gradient, although grad mode is off in that backward."""
    a, t = skew(4, torch.float64, 1.0), skew(4, torch.float64, 1.0)
    g = torch.randn(4, 4, dtype=torch.float64)

    def pulled(x):
        y = expm_skew(x)
        return torch.autograd.grad(y, x, g)[0]

    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(a.clone().requires_grad_(), t)
        slope = torch.autograd.forward_ad.unpack_dual(pulled(dual)).tangent
    step = 1e-5
    up, down = (pulled((a + s * t).requires_grad_()) for s in (step, -step))
    assert torch.allclose(slope, (up - down) / (2 * step), atol=1e-9)


def test_third_derivative():
    x = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    generator = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    y = expm_skew(x * generator)[1, 0]  # sin(x)
    for _ in range(3):
        (y,) = torch.autograd.grad(y, x, create_graph=True)
    assert y.item() == pytest.approx(-math.cos(0.3), rel=1e-12)


def loss(a):
    return expm_skew(a).sin().sum()


def test_transformations():
    a = torch.randn(4, 3, 3, dtype=torch.float64)
    loop = torch.stack([expm_skew(t) for t in a])
    assert torch.allclose(torch.func.vmap(expm_skew)(a), loop, atol=1e-13)
    along = torch.func.vmap(expm_skew, in_dims=2, out_dims=2)(a.permute(1, 2, 0))
    assert torch.allclose(along.permute(2, 0, 1), loop, atol=1e-13)
    twice = torch.func.vmap(torch.func.vmap(expm_skew))(a.reshape(2, 2, 3, 3))
    assert torch.allclose(twice.reshape(4, 3, 3), loop, atol=1e-13)
    grads = torch.func.vmap(torch.func.grad(loss))(a)
    leaf = a.clone().requires_grad_()
    loss(leaf).backward()
    assert torch.allclose(grads, leaf.grad, atol=1e-13)
    again = torch.func.jacrev(torch.func.jacrev(loss))(a[0])
    assert torch.allclose(torch.func.jacfwd(torch.func.jacrev(loss))(a[0]), again, atol=1e-12)
    assert torch.allclose(torch.func.jacrev(torch.func.jacfwd(loss))(a[0]), again, atol=1e-12)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("view", ["plain", "mH", "conj"])
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
def test_compiled_is_eager(view, dtype, backend):
    """Lazy conjugation is off in compiled graphs: views of both kinds must be read right."""
    torch.compiler.reset()
    see = {"plain": lambda t: t, "mH": lambda t: t.mH, "conj": torch.conj}[view]
    a, g = torch.randn(2, 3, 3, dtype=dtype), torch.randn(2, 3, 3, dtype=dtype).mH
    compiled = torch.compile(lambda t: expm_skew(see(t)), fullgraph=True, backend=backend)
    eager = both(lambda t: expm_skew(see(t)), a, g)
    for found, true in zip(both(compiled, a, g), eager, strict=True):
        assert torch.allclose(found, true, atol=1e-6)
    mapped = torch.compile(torch.func.vmap(expm_skew), fullgraph=True, backend=backend)
    assert torch.allclose(mapped(a), expm_skew(a), atol=1e-6)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_a_traced_graph_asks_the_norm_anew(mode):
    a = skew(5, torch.float64, 0.01)
    graph = make_fx(expm_skew, tracing_mode=mode)(a)
    assert torch.allclose(graph(900 * a), expm_skew(900 * a), atol=1e-13)


def test_operations_keep_the_rules_of_torch_library():
    a = torch.randn(2, 3, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.constrainedparams.expm_skew, (a,))
    torch.library.opcheck(
        torch.ops.constrainedparams.expm_skew_pullback, (torch.randn(2, 3, 3), a.detach())
    )
    assert expm_skew(torch.empty(2, 3, 3, device="meta")).shape == (2, 3, 3)


# small things ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3, 3)], ids=str)
def test_empty_matrices_and_batches(shape):
    leaf = torch.zeros(shape, requires_grad=True)
    expm_skew(leaf).sum().backward()
    assert leaf.grad.shape == shape


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_at_zero_it_is_the_identity_and_the_gradient_its_skew_part(dtype):
    leaf, g = torch.zeros(20, 20, dtype=dtype, requires_grad=True), torch.randn(20, 20, dtype=dtype)
    y = expm_skew(leaf)
    y.backward(g)
    assert torch.equal(y, torch.eye(20, dtype=dtype))
    assert torch.equal(leaf.grad, (g - g.mT) / 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_strides_do_not_matter(dtype):
    a = skew(6, dtype, 1.0, (2,))
    wide = torch.zeros(2, 6, 12, dtype=dtype)
    wide[..., ::2] = a
    for other in (a.mT.contiguous().mT, wide[..., ::2]):
        assert not other.is_contiguous()
        assert torch.allclose(expm_skew(other), expm_skew(a), atol=1e-14)


def test_the_input_and_what_was_kept_stay_as_they_are():
    a = skew(5, torch.float64, 4.0)
    before, leaf = copy.deepcopy(a), a.requires_grad_()
    y = expm_skew(leaf)
    g = torch.randn(5, 5, dtype=torch.float64)
    first = torch.autograd.grad(y, leaf, g, retain_graph=True)[0]
    y.detach().zero_()
    assert torch.equal(torch.autograd.grad(y, leaf, g)[0], first)
    assert torch.equal(leaf, before)


def test_no_graph_is_kept_without_need():
    assert not expm_skew(skew(4, torch.float32)).requires_grad
