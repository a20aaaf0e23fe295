"""(I + S^2)^1/2 against mpmath and eigenvalues in double precision, its derivatives and rules."""

import math

import mpmath
import pytest
import torch

from constrainedparams.numerics.roots import hypotenuse

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def wide(dtype):
    return torch.complex128 if dtype.is_complex else torch.float64


def matrix(n, dtype, norm, repeated=False):
    """Eigenvalues of both signs from 1e-6 of the norm on, or norm and -norm only."""
    q = torch.linalg.qr(torch.randn(n, n, dtype=wide(dtype)))[0]
    e = torch.logspace(0, -6, n, dtype=torch.float64) * (-1) ** torch.arange(n)
    return (norm * (q * (e.sign() if repeated else e)) @ q.mH).to(dtype)


def both(s, g, function=hypotenuse):
    leaf = s.clone().requires_grad_()
    root = function(leaf)
    return root.detach(), torch.autograd.grad(root, leaf, g)[0]


def units(found, true):
    gap = torch.linalg.norm(found.to(true.dtype) - true) / torch.linalg.norm(true)
    return float(gap) / torch.finfo(found.dtype).eps / len(found) ** 0.5


@pytest.mark.parametrize("repeated", [False, True], ids=["spread", "repeated"])
@pytest.mark.parametrize("norm", [1e-6, 1.2, 30.0, 1e6, 1e25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("n", [1, 2, 16, 64])
def test_single_precision_is_right_to_rounding(n, dtype, norm, repeated):
    s, g = matrix(n, dtype, norm, repeated), torch.randn(n, n, dtype=dtype)
    e, v = torch.linalg.eigh(0.5 * (s + s.mH).to(wide(dtype)))
    h = torch.where(e.abs() > 1e9, e.abs(), (1 + e**2).sqrt())
    inner = v.mH @ (0.5 * (g + g.mH)).to(v.dtype) @ v
    slopes = (e[:, None] + e) / (h[:, None] + h)
    root, pulled = both(s, g)
    assert torch.equal(root, root.mH)
    assert torch.equal(pulled, pulled.mH)
    assert units(root, (v * h) @ v.mH) <= 1
    assert units(pulled, v @ (slopes * inner) @ v.mH) <= 1


@pytest.mark.parametrize("norm", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("repeated", [False, True], ids=["spread", "repeated"])
def test_value_and_gradient_are_those_of_mpmath(norm, repeated):
    """The gradient by differences in 60 digits: no formula is shared."""
    n = 3
    s, g = matrix(n, torch.float64, norm, repeated), torch.randn(n, n, dtype=torch.float64)

    def f(m):
        e, q = mpmath.eigsy((m + m.T) / 2)
        return q * mpmath.diag([mpmath.sqrt(1 + t * t) for t in e]) * q.T

    with mpmath.workdps(60):
        weights = mpmath.matrix(g.tolist())
        at, step, slope = mpmath.matrix(s.tolist()), mpmath.mpf(10) ** -25, torch.zeros_like(s)
        value = torch.tensor([[float(t) for t in row] for row in f(at).tolist()], dtype=s.dtype)
        for i in range(n):
            for j in range(n):
                up, down = at.copy(), at.copy()
                up[i, j] += step
                down[i, j] -= step
                change = (f(up) - f(down)) / (2 * step)
                products = (a * b for a, b in zip(change, weights, strict=True))
                slope[i, j] = float(sum(products))
    root, pulled = both(s, g)
    assert units(root, value) <= 2
    assert units(pulled, slope) <= 4 * (1 + norm)  # an eigenvalue of 1 moves by eps * norm


@pytest.mark.parametrize("size", [1e-30, 1e6, 1e20])
def test_the_gradient_does_not_depend_on_the_size_of_what_comes_in(size):
    s, g = matrix(8, torch.float32, 3.0), torch.randn(8, 8)
    assert torch.allclose(both(s, size * g)[1] / size, both(s, g)[1], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("kind", ["random", "zero", "repeated", "batch"])
def test_first_and_second_derivatives(kind, dtype):
    s = {
        "random": lambda: torch.randn(3, 3, dtype=dtype),
        "zero": lambda: torch.zeros(3, 3, dtype=dtype),
        "repeated": lambda: matrix(3, dtype, 2.0, repeated=True),
        "batch": lambda: torch.randn(2, 2, 2, dtype=dtype),
    }[kind]()
    leaf = s.requires_grad_()
    options = {"check_batched_grad": True, "check_undefined_grad": True}
    assert torch.autograd.gradcheck(hypotenuse, leaf, check_forward_ad=True, **options)
    assert torch.autograd.gradgradcheck(hypotenuse, leaf, check_fwd_over_rev=True)


def test_third_derivative():
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    y = hypotenuse(t.reshape(1, 1)).squeeze()
    for _ in range(3):
        (y,) = torch.autograd.grad(y, t, create_graph=True)
    assert y.item() == pytest.approx(-3 * 0.4 / 1.16**2.5, rel=1e-10)  # of (1 + t^2)^(1/2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_transformations(dtype):
    tight = {"atol": 1e-12 if dtype in (torch.float64, torch.complex128) else 1e-5}
    x = torch.randn(4, 3, 3, dtype=dtype)
    loop = torch.stack([hypotenuse(t) for t in x])
    assert torch.allclose(torch.func.vmap(hypotenuse)(x), loop, **tight)

    def loss(t):
        return hypotenuse(t).abs().sin().sum()

    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    assert torch.allclose(torch.func.vmap(torch.func.grad(loss))(x), leaf.grad, **tight)
    if not dtype.is_complex:
        again = torch.func.jacrev(torch.func.jacrev(loss))(x[0])
        assert torch.allclose(torch.func.jacfwd(torch.func.jacrev(loss))(x[0]), again, **tight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_compiled_is_eager(dtype):
    torch.compiler.reset()
    s, g = torch.randn(2, 3, 3, dtype=dtype), torch.randn(2, 3, 3, dtype=dtype)
    compiled = torch.compile(lambda t: hypotenuse(t.mH), fullgraph=True, backend="aot_eager")
    eager = both(s, g, lambda t: hypotenuse(t.mH))
    for found, true in zip(both(s, g, compiled), eager, strict=True):
        assert torch.allclose(found, true, atol=1e-5)
    x = torch.randn(2, 3, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.constrainedparams.hypotenuse, (x,))


def test_it_grows_as_its_argument_and_does_not_overflow():
    s = torch.diag(torch.tensor([1e200, -1e300, 0.0], dtype=torch.float64))
    assert torch.allclose(hypotenuse(s), s.abs() + torch.diag(s.new_tensor([0.0, 0.0, 1.0])))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_matrix(value):
    s = torch.randn(3, 4, 4)
    alone = hypotenuse(s[-1])
    s[0, 1, 2] = value
    root = hypotenuse(s)
    assert root[0].isnan().all()
    assert torch.allclose(root[-1], alone, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3, 3)], ids=str)
def test_empty_matrices_and_batches(shape):
    leaf = torch.zeros(shape, requires_grad=True)
    hypotenuse(leaf).sum().backward()
    assert leaf.grad.shape == shape
