"""Compiled code around a constrained parameter: x or y as an input, the optimiser's step."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

import constrainedparams as cp

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
FUNCTIONS = {"set": cp.Orthogonal(), "callable": torch.tanh, "tall": cp.Orthogonal("cayley")}


@pytest.fixture(autouse=True)
def _new_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def constrained(function, shape=(4, 4)):
    layer = nn.Linear(*reversed(shape)).double()
    return cp.register_constrained_parameter(layer, "weight", function)


def layer_of(name):
    return constrained(FUNCTIONS[name], (6, 2) if name == "tall" else (4, 4))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_y_as_an_argument(name, warm, backend):
    """One graph for each y that comes, gradients through f to x."""
    layer, counter = layer_of(name), CompileCounterWithBackend(backend)
    compiled = torch.compile(lambda h, w: (h @ w.mT).sin().sum(), backend=counter, fullgraph=True)
    twin = copy.deepcopy(layer)
    for _ in range(3):
        h = torch.randn(2, layer.in_features, dtype=torch.float64)
        if warm:
            layer.weight.sum().backward()
        layer.zero_grad()
        twin.zero_grad()
        compiled(h, layer.weight).backward()
        (h @ twin.weight.mT).sin().sum().backward()
        for each in (layer, twin):
            torch.optim.SGD([each._weight_unconstrained], lr=0.1).step()
        assert_close(layer.weight.detach(), twin.weight.detach())
    assert counter.frame_count == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_x_as_an_argument(name, backend):
    """x is an ordinary parameter to a compiled function; what the function writes is noticed."""
    layer = layer_of(name)
    twin = copy.deepcopy(layer)

    @torch.compile(backend=backend, fullgraph=True)
    def penalty(x):
        return x.square().sum()

    @torch.compile(backend=backend, fullgraph=True)
    def shrink(x):
        with torch.no_grad():
            x.mul_(0.9).add_(0.01)

    for _ in range(2):
        (penalty(layer._weight_unconstrained) + layer.weight.sin().sum()).backward()
        (twin._weight_unconstrained.square().sum() + twin.weight.sin().sum()).backward()
        assert_close(layer._weight_unconstrained.grad, twin._weight_unconstrained.grad)
        shrink(layer._weight_unconstrained)
        with torch.no_grad():
            twin._weight_unconstrained.mul_(0.9).add_(0.01)
        assert_close(layer.weight.detach(), twin.weight.detach())


# Dynamo says once that it cannot look at frames
@pytest.mark.filterwarnings("ignore:.*sys._getframe.*")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functional_call_inside_of_a_compiled_function(name):
    """By the name of x one graph; by the name of y right, but not with fullgraph=True."""
    layer = layer_of(name)
    h = torch.randn(2, layer.in_features, dtype=torch.float64)

    def loss(w, key):
        return torch.func.functional_call(layer, {key: w}, (h,)).sin().sum()

    for key, whole in (("_weight_unconstrained", True), ("weight", False)):
        w = (0.3 * torch.randn_like(layer._weight_unconstrained)).detach().requires_grad_()
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=whole)
        (got,) = torch.autograd.grad(compiled(w, key), w)
        (want,) = torch.autograd.grad(loss(w, key), w)
        assert_close(got, want)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="_getframe"):
        torch.compile(loss, backend="aot_eager", fullgraph=True)(w, "weight")
    assert layer.weight.grad_fn is not None


UNDER_FUNC = {
    "callable": torch.tanh,
    "exp": cp.Orthogonal(),
    "polar": cp.Orthogonal("polar"),
    "definite": cp.PositiveDefinite(map="exp"),
    "stable": cp.Schur(),
    "sums": cp.DoublyStochastic(),
}


@pytest.mark.parametrize("mapped", [False, True], ids=["grad", "per sample"])
@pytest.mark.parametrize("name", UNDER_FUNC)
def test_torch_func_inside_of_a_compiled_function(name, mapped):
    """Also of maps that are one operation in the graph: by the name of x, with respect to it."""
    layer = nn.Linear(3, 3, bias=False).double()
    cp.register_constrained_parameter(layer, "weight", UNDER_FUNC[name], project=name != "callable")
    x, h = layer._weight_unconstrained.detach(), torch.randn(2, 3, dtype=torch.float64)

    def loss(x, h):
        return torch.func.functional_call(layer, {"_weight_unconstrained": x}, (h,)).sin().sum()

    grad = torch.func.grad(loss)
    grad = torch.func.vmap(grad, (None, 0)) if mapped else grad
    compiled = torch.compile(lambda x, h: grad(x, h), backend="aot_eager", fullgraph=True)
    assert_close(compiled(x, h), grad(x, h))


@pytest.mark.parametrize("name", ["cayley", *UNDER_FUNC])
def test_forward_mode_of_a_set_called_by_hand_in_a_compiled_function(name):
    """Right or refused, where torch drops the tangent of an opaque operation in silence."""
    function = {"cayley": cp.Orthogonal("cayley"), **UNDER_FUNC}[name]
    x, v = (torch.randn(3, 3, dtype=torch.float64) for _ in range(2))

    def along(x, v):
        return torch.func.jvp(function, (x,), (v,))[1]

    compiled = torch.compile(along, backend="aot_eager", fullgraph=True)
    if name in ("exp", "polar", "stable", "sums"):
        with pytest.raises(torch._dynamo.exc.Unsupported, match="NotImplementedError"):
            compiled(x, v)
        compiled = torch.compile(along, backend="aot_eager")  # which falls back to eager mode
    assert_close(compiled(x, v), along(x, v))


def test_a_set_called_by_hand_under_compiled_torch_func():
    """Loud where it would have no gradient."""
    x = torch.randn(3, 3, dtype=torch.float64)
    for function, refused in ((cp.Orthogonal("cayley"), False), (cp.Orthogonal(), True)):
        grad = torch.func.grad(lambda x, f=function: f(x).sin().sum())
        compiled = torch.compile(grad, backend="aot_eager", fullgraph=True)
        if refused:
            with pytest.raises(torch._dynamo.exc.TorchDynamoException, match="setup_context"):
                compiled(x)
        else:
            assert_close(compiled(x), grad(x))


STEPS = {
    "sgd foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, foreach=False),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", STEPS)
# Dynamo says once that profiler marks are left out, and hooks see no gradient of a compiled step
@pytest.mark.filterwarnings("ignore:.*[Pp]rofiler.*")
def test_a_compiled_optimiser_step(name, backend):
    """The step is seen: the next read is f of the new x, and f runs once for it.

    torch's own compiled Adam computes its bias correction in float32, hence the tolerance.
    """
    layer = layer_of("set")
    twin = copy.deepcopy(layer)
    optimisers = [STEPS[name](each.parameters()) for each in (layer, twin)]
    step = torch.compile(optimisers[0].step, backend=backend)
    h = torch.randn(3, 4, dtype=torch.float64)
    for _ in range(3):
        for each in (layer, twin):
            each.zero_grad()
            each(h).sin().sum().backward()
        before = cp.statistics(layer)["weight"].evaluations
        step()
        optimisers[1].step()
        x, base = layer._weight_unconstrained.detach(), layer._weight_base
        for _ in range(3):
            assert_close(layer.weight.detach(), cp.Orthogonal()(x, base=base))
        assert_close(x, twin._weight_unconstrained.detach(), rtol=1e-4, atol=1e-4)
        assert cp.statistics(layer)["weight"].evaluations == before + 1
