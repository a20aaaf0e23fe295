"""f is computed in at least float32, without autocast, and y has the dtype of the parameter."""

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import (
    Counting,
    assert_fresh,
    constrained_linear,
    equal,
    loss_of,
    skew_exp,
    tanh_exp,
    warm,
)

DEVICES = {"cpu": "mkldnn", "cuda": "cuda"}  # torch's name for what multiplies there
LOWER = {"cpu": "bf16", "cuda": "tf32"}
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def make(dtype, f=skew_exp, n=8):
    layer = nn.Linear(n, n, bias=False).to(dtype)
    return cp.register_constrained_parameter(layer, "weight", f)


@pytest.mark.parametrize("dtype", HALF.values(), ids=HALF)
def test_half_is_computed_in_float32_and_rounded(dtype):
    seen = []

    def f(x):
        seen.append(x.dtype)
        return skew_exp(x)

    layer = make(dtype, f)
    x = layer._weight_unconstrained
    assert x.dtype == layer.weight.dtype == dtype
    assert set(seen) == {torch.float32}
    assert torch.equal(layer.weight.detach(), skew_exp(x.detach().float()).to(dtype))


@pytest.mark.parametrize("dtype", HALF.values(), ids=HALF)
def test_gradient_of_half(dtype):
    layer = make(dtype)
    loss_of(layer.weight).backward()
    x = layer._weight_unconstrained
    y = skew_exp(x.detach().float()).to(dtype).requires_grad_()
    (upstream,) = torch.autograd.grad(loss_of(y), y)
    wide = x.detach().float().requires_grad_()
    (want,) = torch.autograd.grad(skew_exp(wide), wide, upstream.float())
    assert x.grad.dtype == dtype
    assert torch.equal(x.grad, want.to(dtype))


@pytest.mark.parametrize("dtype", HALF.values(), ids=HALF)
def test_half_trains(dtype):
    layer = make(dtype)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        loss_of(layer.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
        want = skew_exp(layer._weight_unconstrained.detach().float()).to(dtype)
        assert torch.equal(layer.weight.detach(), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_dtypes_are_not_promoted(dtype):
    seen = []

    def f(x):
        seen.append(x.dtype)
        return x.tanh()

    layer = make(dtype, f)
    assert layer.weight.dtype == dtype and set(seen) == {dtype}
    assert torch.equal(layer.weight.detach(), layer._weight_unconstrained.detach().tanh())


def products(x):
    """(n, n) -> (n, n): made of what autocast would compute in half precision."""
    return x @ x.t() + nn.functional.linear(x, x)


@pytest.mark.parametrize("half", HALF.values(), ids=HALF)
@pytest.mark.parametrize("first", ["inside", "outside"])
@pytest.mark.parametrize("f", [skew_exp, products])
def test_autocast_does_not_reach_f(half, first, f):
    counting = Counting(f)
    layer = make(torch.float32, counting)
    with torch.no_grad():
        layer._weight_unconstrained.add_(0.1)
    counting.reset()
    inputs = torch.rand(2, 8, dtype=torch.float32)
    if first == "outside":
        layer(inputs)
    with torch.autocast(torch.get_default_device().type, dtype=half):
        y = layer.weight
        out = layer(inputs)
    assert out.dtype == half and y.dtype == torch.float32
    assert torch.equal(y.detach(), f(layer._weight_unconstrained.detach()))
    if f is skew_exp:
        defect = (y.detach().double() @ y.detach().double().t() - torch.eye(8)).abs().max()
        assert defect < 2e-6
    layer(inputs)
    out.float().square().sum().backward()
    assert counting.counts == (1, 1)


@pytest.mark.parametrize("f", [skew_exp, products])
def test_gradient_under_autocast(f):
    layer = make(torch.float32, f)
    inputs = torch.rand(2, 8, dtype=torch.float32)
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    for read in (lambda: layer.weight, lambda: f(x)):
        y = read()
        with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
            out = nn.functional.linear(inputs, y)
        out.float().square().sum().backward()
    equal(layer._weight_unconstrained.grad, x.grad, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("f", [skew_exp, products])
def test_backward_inside_autocast(f):
    """torch advises against it; f's derivative keeps its precision all the same."""
    layer = make(torch.float32, f)
    x = layer._weight_unconstrained
    exact = x.detach().clone().requires_grad_()
    y = layer.weight.sin().sum()
    with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
        y.backward()
    f(exact).sin().sum().backward()
    equal(x.grad, exact.grad, rtol=1e-5, atol=1e-6)


def unitary(x):
    """(n, n) complex -> (n, n): exp of a skew-Hermitian matrix."""
    return torch.matrix_exp(x - x.mH)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex(dtype):
    module = nn.Module()
    module.u = nn.Parameter(torch.randn(4, 4, dtype=dtype))
    cp.register_constrained_parameter(module, "u", unitary)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.complex64 else {}
    assert module.u.dtype == dtype
    assert_fresh(module, unitary, "u", **tolerance)
    warm(module, "u")
    module._u_unconstrained.data.mul_(0.5)
    assert_fresh(module, unitary, "u", **tolerance)
    eye = torch.eye(4, dtype=dtype)
    torch.testing.assert_close((module.u @ module.u.mH).detach(), eye, rtol=0, atol=1e-5)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    loss_of(module.u).backward()
    optimizer.step()
    assert_fresh(module, unitary, "u", **tolerance)


def test_a_real_parameter_with_a_complex_intermediate():
    def f(x):
        return torch.view_as_real(torch.exp(1j * x)).sum(-1)

    layer = constrained_linear(f)
    assert_fresh(layer, f)


def test_moving_between_dtypes_keeps_the_value():
    layer = constrained_linear(tanh_exp)
    for move, dtype in ((layer.float, torch.float32), (layer.bfloat16, torch.bfloat16),
                        (layer.double, torch.float64)):  # fmt: skip
        warm(layer)
        move()
        assert layer.weight.dtype == layer._weight_unconstrained.dtype == dtype
        x = layer._weight_unconstrained.detach()
        wide = x.float() if dtype == torch.bfloat16 else x
        torch.testing.assert_close(layer.weight.detach().clone(), tanh_exp(wide).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_set_stays_on_itself_after_a_move(dtype):
    layer = constrained_linear(cp.Orthogonal(), 8)
    layer.to(dtype).double()
    equal(layer.weight @ layer.weight.t(), torch.eye(8), rtol=0, atol=1e-10)


def test_deferred_sums_of_half_are_those_of_the_naive_model():
    layer = make(torch.bfloat16)
    with cp.deferred_pullback(layer):
        for _ in range(3):
            loss_of(layer.weight).backward()
    loss_of(layer.weight).backward()
    x = layer._weight_unconstrained
    y = skew_exp(x.detach().float()).to(torch.bfloat16).requires_grad_()
    (upstream,) = torch.autograd.grad(loss_of(y), y)
    wide = x.detach().float().requires_grad_()
    (want,) = torch.autograd.grad(skew_exp(wide), wide, 4 * upstream.float())
    scale = want.abs().max().item()
    equal(x.grad.float(), want, rtol=0.02, atol=0.01 * scale)


def test_a_complex_gradient_is_not_lazily_conjugated():
    """torch's Adam views x.grad as real, which an unresolved conjugate refuses."""
    module = nn.Module()
    module.u = nn.Parameter(torch.randn(3, 2, dtype=torch.complex128))
    cp.register_constrained_parameter(module, "u", lambda x: (x.mH * 2).mH.conj())
    loss_of(module.u).backward()
    assert not module._u_unconstrained.grad.is_conj()
    torch.optim.Adam(module.parameters()).step()


class Seen(torch.autograd.Function):
    """2 x, and how precise products are on the way there and back."""

    @staticmethod
    def forward(ctx, x, seen):
        ctx.seen = seen
        seen.append(PRODUCTS.fp32_precision)
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        ctx.seen.append(PRODUCTS.fp32_precision)
        return 2 * g, None


PRODUCTS = getattr(torch.backends, DEVICES[torch.get_default_device().type]).matmul


def asked():
    """What torch says of the precision of products, by each of its names."""
    names = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        older = "the newer names are in use"
    return older, *(name.fp32_precision for name in names)


@pytest.fixture(params=["medium", "newer name"])
def lowered(request):
    """Products of float32 are computed in less; how torch can be asked for it."""
    if request.param == "medium":
        torch.set_float32_matmul_precision("medium")
    else:
        PRODUCTS.fp32_precision = LOWER[torch.get_default_device().type]
    yield PRODUCTS.fp32_precision
    PRODUCTS.fp32_precision = "ieee"
    torch.set_float32_matmul_precision("highest")


def test_products_inside_f_are_precise(lowered):
    """TF32 of a GPU, bfloat16 of some CPUs: a setting of the process, put back after f."""
    seen, before = [], asked()
    layer = make(torch.float32, lambda x: Seen.apply(x, seen))
    loss_of(layer.weight).backward()
    assert seen == ["ieee", "ieee"]
    assert lowered != "ieee"
    assert asked() == before


def test_it_is_put_back_after_an_error(lowered):
    def f(x):
        if broken:
            raise ValueError("no")
        return 2 * x

    broken = False
    layer = make(torch.float32, f)
    broken = True
    layer.weight.updated()
    with pytest.raises(ValueError, match="no"):
        layer.weight  # noqa: B018
    assert PRODUCTS.fp32_precision == lowered


def test_a_set_is_as_exact_as_without(lowered):
    x = torch.randn(64, 64, dtype=torch.float32)
    y = cp.Orthogonal()(x).double()
    assert (y @ y.mT - torch.eye(64)).abs().max() < 1e-6
    assert PRODUCTS.fp32_precision == lowered


@pytest.mark.parametrize("function", [cp.Orthogonal(), tanh_exp])
def test_a_default_device_elsewhere(function):
    """A program that makes its models on meta may have a layer that is there already."""
    layer, like = nn.Linear(4, 4), torch.eye(4)
    with torch.device("meta"):
        cp.register_constrained_parameter(layer, "weight", function)
        loss_of(layer.weight).backward()
        if isinstance(function, cp.Orthogonal):
            layer.weight = like
            cp.retract(layer)
            assert cp.violations(layer)["weight"] < 1e-12
        assert not cp.bake(layer).weight.is_meta
        assert not any(t.is_meta for t in layer.state_dict().values())
    assert_fresh(layer, function if function is tanh_exp else cp.constraint_of(layer, "weight"))
