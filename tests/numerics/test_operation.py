"""Functions as operations of torch: the rules of torch.library, whatever the strides of what comes."""

import pytest
import torch

import constrainedparams.numerics.eigen
import constrainedparams.numerics.invertible
import constrainedparams.numerics.stability  # noqa: F401

X = torch.linspace(-1, 2, 18, dtype=torch.float64).sin().view(2, 3, 3)
ARGUMENTS = {
    "eigh": (X + X.mT,),
    "stable": (2 * X, torch.zeros(2, dtype=torch.bool), 1.0, True),
    "away_from_singular": (X.triu() + 2 * torch.eye(3), 0.1),
}
LAYOUTS = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.mT.contiguous().mT,
    "batch last": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_rules_of_torch_library(name, dtype, layout):
    x, *others = ARGUMENTS[name]
    operation = getattr(torch.ops.constrainedparams, name).default
    torch.library.opcheck(operation, (LAYOUTS[layout](x.to(dtype)), *others))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_vmap_over_each_axis_of_a_batch(name):
    x, *others = ARGUMENTS[name]
    operation = getattr(torch.ops.constrainedparams, name).default
    expected = operation(x, *others)
    given = [t[0] if isinstance(t, torch.Tensor) else t for t in others]
    for axis in range(3):
        mapped = torch.func.vmap(lambda t: operation(t, *given), axis)
        found = mapped(x.movedim(0, axis))
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-14)
