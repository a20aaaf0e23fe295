"""The matrix exponential against scipy and mpmath, and its derivative at every size of gradient."""

import copy
import math

import mpmath
import pytest
import scipy.linalg
import torch
from torch.utils.flop_counter import FlopCounterMode

from constrainedparams.numerics import exponential as module
from constrainedparams.numerics.exponential import expm, frechet

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def skew(n, dtype, scale=1.0):
    a = torch.randn(n, n, dtype=dtype)
    return scale * 0.5 * (a - a.mH)


def units(a, b):
    """Largest difference in rounding units of the largest entry of b."""
    eps = torch.finfo(a.dtype).eps
    b = torch.as_tensor(b)
    return float((a.to(b.dtype) - b).abs().max() / b.abs().max() / eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 10.0])
def test_value_is_that_of_scipy(dtype, scale):
    a = skew(8, dtype, scale)
    wide = a.to(torch.complex128 if dtype.is_complex else torch.float64)
    assert units(expm(a), scipy.linalg.expm(wide.numpy())) < 16 * (1 + scale)


def test_value_and_derivative_are_those_of_mpmath():
    n = 12
    a, g = skew(n, torch.float64), torch.randn(n, n, dtype=torch.float64)
    with mpmath.workdps(40):
        block = mpmath.zeros(2 * n)
        for i in range(n):
            for j in range(n):
                block[i, j] = block[n + i, n + j] = float(a[j, i])
                block[i, n + j] = float(g[i, j])
        exact, r = mpmath.expm(block), range(n)
        value = torch.tensor([[float(exact[i, j]) for j in r] for i in r], dtype=torch.float64)
        slope = torch.tensor([[float(exact[i, n + j]) for j in r] for i in r], dtype=torch.float64)
    for dtype in (torch.float64, torch.float32):
        leaf = a.to(dtype).requires_grad_()
        y = expm(leaf)
        (found,) = torch.autograd.grad(y, leaf, g.to(dtype))
        # the block holds A^T, so exp(A)^T and the pullback of g
        assert units(y.detach().mT, value) < 32
        assert units(found, slope) < 32


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e3, 1e6, 1e30])
def test_derivative_does_not_depend_on_the_size_of_the_gradient(size):
    a, g = skew(16, torch.float32), torch.randn(16, 16)
    exact = scipy.linalg.expm_frechet(a.mT.double().numpy(), g.double().numpy(), compute_expm=False)
    leaf = a.clone().requires_grad_()
    (found,) = torch.autograd.grad(expm(leaf), leaf, size * g)
    assert units(found / size, exact) < 32


def test_a_zero_gradient_gives_zero():
    leaf = skew(3, torch.float64).requires_grad_()
    (found,) = torch.autograd.grad(expm(leaf), leaf, torch.zeros(3, 3, dtype=torch.float64))
    assert torch.equal(found, torch.zeros(3, 3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_first_and_second_derivative_and_forward_mode(dtype):
    leaf = torch.randn(2, 3, 3, dtype=dtype).requires_grad_()
    assert torch.autograd.gradcheck(expm, leaf, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(expm, leaf)


def test_third_derivative():
    x = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    y = expm(x)
    for _ in range(3):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert y.item() == pytest.approx(x.exp().item(), rel=1e-12)


def test_transforms_and_compilation():
    a = torch.randn(4, 3, 3, dtype=torch.float64)
    loop = torch.stack([expm(t) for t in a])
    assert torch.allclose(torch.func.vmap(expm)(a), loop)
    hessian = torch.func.jacfwd(torch.func.jacrev(lambda t: expm(t).sum()))(a[0])
    again = torch.func.jacrev(torch.func.jacrev(lambda t: expm(t).sum()))(a[0])
    assert torch.allclose(hessian, again)
    compiled = torch.compile(torch.func.vmap(expm), fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(a), loop)


def test_frechet_is_linear_in_its_direction():
    a, g, h = (torch.randn(4, 4, dtype=torch.float64) for _ in range(3))
    assert torch.allclose(frechet(a, 2 * g - h), 2 * frechet(a, g) - frechet(a, h))


def test_empty_matrices():
    leaf = torch.zeros(2, 0, 0, requires_grad=True)
    expm(leaf).sum().backward()
    assert leaf.grad.shape == (2, 0, 0)


# accuracy and cost ------------------------------------------------------------------------------


def general(n, dtype, norm, kind="full"):
    a = torch.randn(n, n, dtype=torch.complex128 if dtype.is_complex else torch.float64)
    if kind == "triangular":
        a = a.triu() + 5 * a.triu(1)
    if kind == "stable":
        a = a - 2 * math.sqrt(n) * torch.eye(n, dtype=a.dtype)
    if kind == "defective":
        a = torch.eye(n, dtype=a.dtype) + torch.diag(torch.ones(n - 1, dtype=a.dtype), 1)
    return (a * (norm / torch.linalg.matrix_norm(a, 2))).to(dtype)


def both(function, a, g):
    leaf = a.clone().requires_grad_()
    y = function(leaf)
    return y.detach(), torch.autograd.grad(y, leaf, g)[0]


def exact(a, g):
    """exp(A) and the pullback of G, by SciPy in double precision."""
    wide = torch.complex128 if a.is_complex() else torch.float64
    e, slope = scipy.linalg.expm_frechet(a.mH.resolve_conj().to(wide).numpy(), g.to(wide).numpy())
    return torch.from_numpy(e).mH, torch.from_numpy(slope)


def off(found, wanted):
    """In Frobenius norms, in rounding units."""
    gap = torch.linalg.norm(found.to(wanted.dtype) - wanted) / torch.linalg.norm(wanted)
    return float(gap) / torch.finfo(found.dtype).eps


@pytest.mark.parametrize("norm", [1e-6, 1e-3, 0.1, 1.0, 3.0, 10.0, 30.0])
@pytest.mark.parametrize("kind", ["full", "triangular", "stable", "defective"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("n", [2, 16, 64])
def test_value_and_gradient_are_as_good_as_rounding_allows(n, dtype, kind, norm):
    """At most 4 sqrt(n) units, growing with the norm as exp's condition does, or torch's."""
    a, g = general(n, dtype, norm, kind), torch.randn(n, n, dtype=dtype)
    found, peer, true = both(expm, a, g), both(torch.matrix_exp, a, g), exact(a, g)
    for mine, theirs, wanted in zip(found, peer, true, strict=True):
        assert off(mine, wanted) <= max(4 * math.sqrt(n) * max(1.0, norm), off(theirs, wanted))


@pytest.mark.parametrize("norm", [1e-6, 1e-3, 0.03, 0.3, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("kind", ["full", "triangular", "stable"])
def test_double_precision_is_that_of_mpmath(kind, norm):
    n = 8
    a, g = general(n, torch.float64, norm, kind), torch.randn(n, n, dtype=torch.float64)
    with mpmath.workdps(60):
        block = mpmath.zeros(2 * n)
        for i in range(n):
            for j in range(n):
                block[i, j] = block[n + i, n + j] = float(a[j, i])
                block[i, n + j] = float(g[i, j])
        full, r = mpmath.expm(block), range(n)
        value = torch.tensor([[float(full[j, i]) for j in r] for i in r], dtype=torch.float64)
        slope = torch.tensor([[float(full[i, n + j]) for j in r] for i in r], dtype=torch.float64)
    peer = both(torch.matrix_exp, a, g)
    for mine, theirs, wanted in zip(both(expm, a, g), peer, (value, slope), strict=True):
        assert off(mine, wanted) <= max(4 * math.sqrt(n) * max(1.0, norm), off(theirs, wanted))


@pytest.mark.parametrize("scheme", range(4))
def test_each_scheme_is_the_series_of_taylor(scheme):
    """Its coefficients, in 40 digits, from the products as they are written down."""
    degree = (4, 8, 12, 18)[scheme]
    _, _, products, total = module._SCHEMES[scheme]
    with mpmath.workdps(40):

        def combined(factors, terms):
            length = max(len(t) for t in terms)
            filled = [t + [mpmath.mpf(0)] * (length - len(t)) for t in terms]
            pairs = list(zip(factors, filled, strict=False))
            return [sum(mpmath.mpf(f) * t[i] for f, t in pairs) for i in range(length)]

        terms = [[mpmath.mpf(1)], [mpmath.mpf(0), mpmath.mpf(1)]]
        for left, right in products:
            l, r = combined(left, terms), combined(right, terms)
            out = [mpmath.mpf(0)] * (len(l) + len(r) - 1)
            for i, x in enumerate(l):
                for j, y in enumerate(r):
                    out[i + j] += x * y
            terms.append(out)
        series = combined(total, terms)
        assert series[0] == 0
        for k in range(1, degree + 1):
            assert abs(series[k] * mpmath.factorial(k) - 1) < 1e-14
        assert all(abs(c) < 1e-15 / mpmath.factorial(degree) for c in series[degree + 1 :])


@pytest.mark.parametrize(
    ("norm", "most"), [(0.01, 6), (0.1, 9), (0.4, 12), (1.0, 15), (2.0, 18), (4.0, 21), (16.0, 27)]
)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_products_there_and_back(batch, norm, most):
    """Three for each product of the value: one there, two back. Peers: over 100."""
    a = torch.stack([general(64, torch.float32, norm) for _ in range(math.prod(batch))])
    leaf = a.reshape(*batch, 64, 64).requires_grad_()
    with FlopCounterMode(display=False) as count:
        expm(leaf).sum().backward()
    assert count.get_total_flops() / (2 * 64**3 * math.prod(batch)) <= most


def test_a_large_matrix_does_not_cost_its_batch_digits():
    a = torch.stack((general(8, torch.float32, 200.0), general(8, torch.float32, 1e-3)))
    a[0] -= 150 * torch.eye(8)
    g = torch.randn(2, 8, 8)
    found, true = both(expm, a, g), exact(a[1], g[1])
    assert off(found[0][1], true[0]) < 4
    assert off(found[1][1], true[1]) < 8


def test_a_nilpotent_matrix_of_any_size_needs_no_squaring():
    a = torch.tensor([[0.0, 1e20], [0.0, 0.0]])
    assert expm(a).tolist() == [[1.0, torch.tensor(1e20).item()], [0.0, 1.0]]
    assert module._there(a)[1][0].squarings == 0


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_what_is_not_finite_stays_in_its_matrix_and_ends(value, count):
    a = 0.3 * torch.randn(count + 1, 4, 4)
    alone = expm(a[-1])
    a[0, 1, 2] = value
    leaf = a.clone().requires_grad_()
    y = expm(leaf)
    y.sum().backward()
    assert torch.allclose(y[-1], alone, atol=1e-6)
    assert leaf.grad[-1].isfinite().all()


def test_the_input_and_what_was_kept_stay_as_they_are():
    a = general(5, torch.float64, 4.0)
    before, leaf = copy.deepcopy(a), a.requires_grad_()
    y = expm(leaf)
    g = torch.randn(5, 5, dtype=torch.float64)
    first = torch.autograd.grad(y, leaf, g, retain_graph=True)[0]
    y.detach().zero_()
    assert torch.equal(torch.autograd.grad(y, leaf, g)[0], first)
    assert torch.equal(leaf, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_compiled_is_eager(dtype):
    torch.compiler.reset()
    a, g = torch.randn(2, 3, 3, dtype=dtype), torch.randn(2, 3, 3, dtype=dtype).mH
    compiled = torch.compile(lambda t: expm(t.mH), fullgraph=True, backend="aot_eager")
    for found, true in zip(both(compiled, a, g), both(lambda t: expm(t.mH), a, g), strict=True):
        assert torch.allclose(found, true, atol=1e-5)
