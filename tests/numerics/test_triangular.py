"""Products and solutions of triangular matrices by blocks, against the dense ones and SciPy."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.utils.flop_counter import FlopCounterMode

from constrainedparams.numerics.triangular import (
    lower_product,
    solved_lower,
    solved_upper,
    upper_of_product,
)

DTYPES = [torch.float64, torch.complex128]
SIZES = [1, 5, 127, 128, 129, 300]


def upper(k, dtype, *batch):
    """Well conditioned: a diagonal that dominates."""
    a = torch.randn(*batch, k, k, dtype=dtype).triu(1) / k**0.5
    return a + torch.diag_embed(1 + torch.rand(*batch, k, dtype=dtype))


def close(a, b):
    return float((a - b).abs().max()) < 1e-12


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", SIZES)
def test_products_are_those_of_all_entries(k, dtype):
    a, b = upper(k, dtype, 2), torch.randn(2, k, k, dtype=dtype)
    assert close(upper_of_product(a, b).triu(), (a @ b).triu())
    assert close(upper_of_product(b, a.mH).triu(), (b @ a.mH).triu())
    assert close(lower_product(a.mH, b), a.mH @ b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", SIZES)
def test_solutions_are_those_of_scipy(k, dtype):
    a, b = upper(k, dtype), torch.randn(k, k, dtype=dtype)
    right = b.triu()
    exact = scipy.linalg.solve_triangular(a.numpy(), right.numpy())
    assert np.abs(solved_upper(a, right).numpy() - exact).max() < 1e-12
    exact = scipy.linalg.solve_triangular(a.numpy(), b.numpy(), trans="C")
    assert np.abs((solved_lower(a, b).numpy() - exact)[np.triu_indices(k)]).max() < 1e-12


@pytest.mark.parametrize("k", [0, 1, 300])
def test_what_goes_in_stays_as_it_is(k):
    a, b = upper(k, torch.float64), torch.randn(k, k, dtype=torch.float64).triu()
    before = a.clone(), b.clone()
    for f in (upper_of_product, solved_upper, solved_lower):
        assert f(a, b).shape == (k, k)
    assert lower_product(a.mT, b).shape == (k, k)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


@pytest.mark.parametrize(("f", "most"), [(upper_of_product, 0.45), (lower_product, 0.6)])
def test_blocks_of_zeros_cost_nothing(f, most):
    """A third and a half of all products, in the limit of small blocks."""
    a = torch.randn(512, 512)
    with FlopCounterMode(display=False) as count:
        f(a, a)
    assert count.get_total_flops() / (2 * 512**3) <= most
