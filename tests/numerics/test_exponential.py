"""The matrix exponential against scipy and mpmath, and its derivative at every size of gradient."""

import mpmath
import pytest
import scipy.linalg
import torch

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
