"""Elementwise functions against mpmath."""

import mpmath
import pytest
import torch

from constrainedparams.numerics.elementary import inverse_softplus, softplus, with_value

POINTS = [-300.0, -20.0, -1.0, 0.0, 1e-3, 1.0, 19.9, 20.1, 39.9, 40.1, 500.0]


@pytest.mark.parametrize("x", POINTS)
def test_softplus_is_exact_to_rounding_and_undone(x):
    with mpmath.workdps(50):
        exact = float(mpmath.log1p(mpmath.exp(x)))
    found = softplus(torch.tensor(x, dtype=torch.float64))
    assert float(found) == pytest.approx(exact, rel=4e-16)
    assert float(inverse_softplus(found)) == pytest.approx(x, rel=1e-13, abs=1e-13)


def test_with_value_has_one_tensors_value_and_anothers_derivative():
    x = torch.tensor(3.0, requires_grad=True)
    y = with_value(x * x, torch.tensor(9.5))
    y.backward()
    assert y.item() == 9.5
    assert float(x.grad) == 6.0
