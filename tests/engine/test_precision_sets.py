"""Every set stays on itself in every precision: y is in the set to the parameter's own rounding."""

import pytest
import torch
from torch import nn

import constrainedparams as cp
from constrainedparams.testing import ROWS

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
}
HALF = [torch.bfloat16, torch.float16]


def model_of(case, dtype):
    generator = torch.Generator(torch.get_default_device()).manual_seed(1)
    start = case.constraint.sample(case.shape, dtype=dtype, generator=generator)
    return cp.Parametrized(start, case.constraint)


def loss_of(y):
    wide = torch.view_as_real(y) if y.is_complex() else y
    ramp = torch.linspace(0.5, 1.5, wide.numel(), dtype=wide.dtype).reshape(wide.shape)
    return (wide * (wide + ramp)).sin().sum()


@pytest.mark.parametrize("case", ROWS, ids=str)
@pytest.mark.parametrize("name", DTYPES)
def test_trained_in_its_own_precision(name, case):
    """Two optimisers, then a look at y: dtype, finite, in the set.

    Adam's usual eps of 1e-8 is 0 in float16, where entries that f does not read give 0 / 0.
    """
    dtype = DTYPES[name]
    if dtype.is_complex and not case.constraint.has_complex:
        with pytest.raises(cp.ConstraintError):
            model_of(case, dtype)
        return
    model = model_of(case, dtype)
    for optimiser in (torch.optim.SGD(model.parameters(), lr=0.1),
                      torch.optim.Adam(model.parameters(), lr=0.05, eps=1e-4)):  # fmt: skip
        for _ in range(2):
            optimiser.zero_grad()
            loss_of(model.y).backward()
            optimiser.step()
    y = model.y.detach()
    assert y.dtype is dtype and bool(torch.isfinite(y).all())
    assert bool(case.constraint.contains(y).all()), case.constraint.residual(y)


@pytest.mark.parametrize("case", ROWS, ids=str)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_float32_weight_under_autocast(dtype, case):
    """Read, trained and read again inside: bit for bit what it is outside, and below 1e-6 n."""
    model, twin = model_of(case, torch.float32), model_of(case, torch.float32)
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, twin)]
    with torch.autocast(torch.get_default_device().type, dtype):
        loss_of(model.y).backward()
        optimisers[0].step()
        y = model.y.detach()
    loss_of(twin.y).backward()
    optimisers[1].step()
    assert torch.equal(y, twin.y.detach())
    n = max(case.shape, default=1)
    wide = case.constraint.residual(y.double())
    # in float64 the residual of the float32 value: what rounding y to float32 costs, and no more
    assert float(wide.max()) < 1e-6 * n


@pytest.mark.parametrize("n", [16, 128])
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("map_", ["exp", "cayley"])
def test_orthogonality_of_a_large_weight_under_autocast(map_, dtype, n):
    """|y^T y - I| < 1e-6 n after training a layer in mixed precision, naive f in bf16 is at 1e-2."""
    layer = nn.Linear(n, n).float()
    cp.register_constrained_parameter(layer, "weight", cp.Orthogonal(map_))
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(3):
        optimiser.zero_grad()
        with torch.autocast(torch.get_default_device().type, dtype):
            out = layer(torch.randn(8, n, dtype=torch.float32))
        assert out.dtype is dtype
        out.float().square().mean().backward()
        optimiser.step()
    with torch.autocast(torch.get_default_device().type, dtype):
        y = layer.weight.detach().double()
    defect = torch.linalg.matrix_norm(y.mT @ y - torch.eye(n)).item()
    assert defect < 1e-6 * n
