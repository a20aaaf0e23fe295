"""The square Cayley transform at a base, by its own kernel: values, gradients, and rules."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

from constrainedparams.numerics import cayley
from constrainedparams.numerics.cayley import cayley_square

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
WIDE = [torch.float64, torch.complex128]


@pytest.fixture
def every_size(monkeypatch):
    """The kernel for small matrices too."""
    monkeypatch.setattr(cayley, "_SIZE", 0)


def points(n, dtype, norm=1.5, batch=()):
    """A base, x, and the gradient of y."""
    x, base, g = (torch.randn(*batch, n, n, dtype=dtype) for _ in range(3))
    size = torch.linalg.matrix_norm(x.tril(), 2)[..., None, None]
    return torch.linalg.qr(base)[0], x * (norm / size), g


def skew_of(x):
    low = np.tril(x, -1)
    return (
        low - low.conj().T + 1j * np.diag(np.diag(x).imag if np.iscomplexobj(x) else 0 * np.diag(x))
    )


def exact(base, x, g):
    """By NumPy in double precision: the derivative of a quotient, not the formula of the kernel."""
    base, x, g = (t.to(torch.complex128).numpy() for t in (base, x, g))
    half, one = skew_of(x) / 2, np.eye(len(x))
    y = base @ scipy.linalg.solve(one - half, one + half)
    # d[(I-H)^-1 (I+H)] = (I-H)^-1 dH (I + (I-H)^-1 (I+H))
    left = scipy.linalg.inv(one - half).conj().T
    of_half = left @ base.conj().T @ g @ (one + base.conj().T @ y).conj().T / 2
    of_skew = of_half - of_half.conj().T
    return y, np.tril(of_skew, -1) + np.diag(np.diag(of_skew)) / 2


def both(base, x, g):
    leaf = x.clone().requires_grad_()
    y = cayley_square(base, leaf)
    return y.detach(), torch.autograd.grad(y, leaf, g)[0]


def error(found, true):
    """In Frobenius norms relative to the result, in rounding units."""
    gap = np.linalg.norm(found.to(torch.complex128).numpy() - true)
    return gap / np.linalg.norm(true) / torch.finfo(found.dtype).eps


@pytest.mark.parametrize("norm", [1e-6, 0.1, 1.5, 10.0, 30.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [2, 7, 97, 160])
def test_value_and_gradient_are_as_good_as_rounding_allows(n, dtype, norm, every_size):
    base, x, g = points(n, dtype, norm)
    y, pulled = both(base, x, g)
    true = exact(base, x, g)
    allowed = 4 * math.sqrt(n) * max(1, norm / 4)  # the condition number of I - A/2
    assert error(y, true[0]) <= allowed
    assert error(pulled, true[1]) <= allowed


@pytest.mark.parametrize("norm", [1e-3, 1.2, 10.0])
def test_value_is_that_of_mpmath(norm, every_size):
    base, x, _ = points(5, torch.float64, norm)
    with mpmath.workdps(40):
        a = mpmath.matrix(5)
        for i in range(5):
            for j in range(i):
                a[i, j], a[j, i] = mpmath.mpf(float(x[i, j])), -mpmath.mpf(float(x[i, j]))
        one = mpmath.eye(5)
        true = mpmath.matrix(base.tolist()) * (one - a / 2) ** -1 * (one + a / 2)
        true = np.array([[float(true[i, j]) for j in range(5)] for i in range(5)])
    assert error(cayley_square(base, x), true) < 8


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e6, 1e20])
def test_the_gradient_does_not_depend_on_the_size_of_what_comes_in(size):
    base, x, g = points(100, torch.float32)
    true = exact(base, x, g)[1]
    assert error(both(base, x, size * g)[1] / size, true) < 40


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_first_and_second_derivatives(dtype, every_size):
    base, x, _ = points(4, dtype, batch=(2,))
    x.requires_grad_()
    assert gradcheck(lambda x: cayley_square(base, x), x)
    assert gradgradcheck(lambda x: cayley_square(base, x), x)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_batches_are_their_parts_and_no_base_is_the_identity(dtype, every_size):
    base, x, g = points(5, dtype, batch=(3, 2))
    y, pulled = both(base, x, g)
    for place in np.ndindex(3, 2):
        alone = both(base[place], x[place], g[place])
        assert torch.allclose(y[place], alone[0], atol=1e-14)
        assert torch.allclose(pulled[place], alone[1], atol=1e-13)
    one = torch.eye(5, dtype=dtype)
    assert torch.equal(cayley_square(None, x), cayley_square(one, x))
    assert torch.equal(vmap(lambda x: cayley_square(None, x))(x), cayley_square(None, x))


def test_forward_mode_is_the_transpose_of_reverse_mode(every_size):
    base, x, g = points(6, torch.float64)
    t = torch.randn_like(x)
    y, along = jvp(lambda x: cayley_square(base, x), (x,), (t,))
    found, pulled = both(base, x, g)
    assert torch.allclose(y, found, atol=1e-14)
    assert torch.allclose((g * along).sum(), (pulled * t).sum(), atol=1e-12)


def test_what_is_not_a_number_stays_in_its_matrix(every_size):
    base, x, _ = points(6, torch.float32, batch=(3,))
    alone = cayley_square(base[-1], x[-1])
    x[0, 4, 1] = math.nan
    y = cayley_square(base, x)
    assert not y[0].isfinite().all()
    assert torch.allclose(y[-1], alone, atol=1e-6)


def test_there_and_back_take_one_product():
    """Two solves of n^3 come on top, which the counter does not see."""
    base, x, g = points(128, torch.float32)
    with FlopCounterMode(display=False) as count:
        both(base, x, g)
    assert count.get_total_flops() == 2 * 128**3


def test_the_kernel_is_what_runs_from_its_size_on(monkeypatch):
    base, x, _ = points(100, torch.float32)
    monkeypatch.setattr(cayley, "_formula", None)
    assert (
        torch.linalg.matrix_norm(
            cayley_square(base, x).mH @ cayley_square(base, x) - torch.eye(100)
        )
        < 1e-4
    )
    with pytest.raises(TypeError):
        cayley_square(base[:3, :3], x[:3, :3])
