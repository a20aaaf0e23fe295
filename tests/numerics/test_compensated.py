"""Sums and products in twice the digits, against mpmath."""

import mpmath
import pytest
import torch

from constrainedparams.numerics.compensated import exponential, product, total


def matrix(t):
    return mpmath.matrix(t.tolist())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("k", [1, 3, 40, 512])
@pytest.mark.parametrize("spread", [1.0, 1e8, 1e100])
def test_products_have_twice_the_digits_of_rows_and_columns(spread, k, dtype):
    a, b = torch.randn(3, k, dtype=dtype), torch.randn(k, 2, dtype=dtype)
    a = a * torch.tensor([1.0, spread, 1 / spread], dtype=torch.float64).unsqueeze(-1)
    a[2, 0] = 0.0
    high, low = product(a, b)
    with mpmath.workdps(60):
        off = matrix(a) * matrix(b) - matrix(high) - matrix(low)
    size = a.abs().amax(-1, keepdim=True) * b.abs().amax(-2)
    found = torch.tensor(
        [[float(abs(t)) for t in row] for row in off.tolist()], dtype=torch.float64
    )
    assert bool((found <= k * 2.0**-92 * size).all())
    assert torch.equal(high, high + low)
    many = product(a.expand(2, 3, k), b)
    assert torch.equal(many[0][1], high)
    assert torch.equal(many[1][1], low)


@pytest.mark.parametrize("shape", [(0, 0), (2, 0), (0, 2)], ids=str)
def test_empty_products(shape):
    high, low = product(torch.zeros(shape).double(), torch.zeros(shape[::-1]).double())
    assert high.shape == low.shape == (shape[0], shape[0])
    assert not bool(high.any())


def test_a_sum_keeps_what_cancels():
    terms = torch.tensor([1e16, 1.0, -1e16, 1e-17], dtype=torch.float64)
    high, low = total(*terms)
    assert (float(high), float(low)) == (1.0, 1e-17)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("norm", [0.0, 1e-9, 0.4, 7.0, 30.0])
def test_exponentials_have_twice_the_digits(norm, dtype):
    a = torch.randn(2, 5, 5, dtype=dtype)
    a = norm * a / torch.linalg.matrix_norm(a, 2, keepdim=True)
    high, low = exponential(a)
    with mpmath.workdps(60):
        for i in range(2):
            exact = mpmath.expm(matrix(a[i]), method="taylor")
            off = exact - matrix(high[i]) - matrix(low[i])
            assert mpmath.mnorm(off, "f") <= 2.0**-85 * mpmath.mnorm(exact, "f")
    assert torch.equal(high, high + low)
