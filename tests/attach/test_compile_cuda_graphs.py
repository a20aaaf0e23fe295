"""mode="reduce-overhead": what Inductor captures in CUDA graphs trains and evaluates as eager."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch._inductor import config as inductor_config
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch.testing import assert_close

import constrainedparams as cp
from constrainedparams.testing import ROWS

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
pytestmark = [
    # torch's own: deprecations, the first graph, which it makes empty itself, and cheaper products
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty", "ignore:TensorFloat32"),
]
REASON = "a map of constrainedparams waits for values"
COMPILERS = {"torch": torch.compile, "cp": cp.compile}
MAPS = {"exp": cp.Orthogonal(), "cayley": cp.Orthogonal("cayley"), "callable": torch.tanh}


@pytest.fixture(autouse=True)
def _new_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("function", "region", "reasons"),
    [
        (cp.Orthogonal(), False, {REASON}),
        (cp.Orthogonal(), True, {REASON}),
        (cp.Orthogonal("cayley"), False, {None}),
    ],
    ids=["exp", "in a region", "cayley"],
)
def test_inductor_hears_which_maps_wait(function, region, reasons):
    """Forward and backward graph, on any device: it asks before it looks at that."""
    found, x = set(), torch.randn(2, 2, requires_grad=True)
    within = torch.compiler.nested_compile_region(lambda x: function(x)) if region else function

    def inner(*arguments, **options):
        graph = compile_fx_inner(*arguments, **options)
        reason = graph.disabled_cudagraphs_reason
        found.add(reason and reason.partition(";")[0])
        return graph

    def backend(graph, inputs):
        return compile_fx(graph, inputs, inner_compile=inner)

    with inductor_config.patch(fx_graph_cache=False):
        compiled = torch.compile(
            lambda x: within(x) + within(2 * x), backend=backend, fullgraph=True
        )
        compiled(x).sum().backward()
    assert found == reasons


def pair(function, how):
    """A compiled layer on the GPU, that layer, and an equal one that is not compiled."""
    layer = nn.Linear(4, 4, bias=False, device="cuda", dtype=torch.float32)
    cp.register_constrained_parameter(layer, "weight", function)
    return how(layer, mode="reduce-overhead", fullgraph=True), layer, copy.deepcopy(layer)


def batch():
    return torch.randn(3, 4, device="cuda", dtype=torch.float32)


@gpu
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("how", COMPILERS)
def test_training_and_evaluation(how, name):
    compiled, layer, twin = pair(MAPS[name], COMPILERS[how])
    optimisers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (layer, twin)]
    for _ in range(6):
        h = batch()
        for each in (compiled, twin):
            each.zero_grad()
            each(h).sin().sum().backward()
        assert_close(layer._weight_unconstrained.grad, twin._weight_unconstrained.grad)
        for optimiser in optimisers:
            optimiser.step()
        with torch.no_grad():
            assert_close(compiled(h), twin(h))
        assert_close(layer.weight, twin.weight)


@gpu
@pytest.mark.parametrize("deferred", [False, True], ids=["each", "deferred"])
@pytest.mark.parametrize("name", MAPS)
def test_micro_batches_share_f(name, deferred):
    """4 micro-batches x 4 steps: f once per value of x; what is summed is not in memory of a graph."""
    compiled, layer, twin = pair(MAPS[name], cp.compile)
    optimisers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (layer, twin)]
    accumulate = cp.deferred_pullback(layer) if deferred else contextlib.nullcontext()
    _ = layer.weight
    before = cp.statistics(layer)["weight"].evaluations
    for _ in range(4):
        for each in (layer, twin):
            each.zero_grad()
        for micro in range(4):
            h = batch()
            with accumulate if micro < 3 else contextlib.nullcontext():
                compiled(h).sin().sum().backward()
            twin(h).sin().sum().backward()
        assert_close(layer._weight_unconstrained.grad, twin._weight_unconstrained.grad)
        for optimiser in optimisers:
            optimiser.step()
    assert cp.statistics(layer)["weight"].evaluations == before + 3
    assert_close(layer.weight, twin.weight)


@gpu
@pytest.mark.parametrize("how", COMPILERS)
def test_concatenation_across_a_map(how):
    """Cut in two at the map, torch's CUDA graphs would lose the half that comes before it."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 4, bias=False, device="cuda", dtype=torch.float32)
    cp.register_constrained_parameter(layer, "weight", cp.Orthogonal())
    free = nn.Linear(4, 4, bias=False, device="cuda", dtype=torch.float32)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.free, self.layer = free, layer

        def forward(self, h):
            return torch.cat((self.free(h), self.layer(h)), dim=-1)

    model = Both()
    twin = copy.deepcopy(model)
    compiled = COMPILERS[how](model, mode="reduce-overhead", fullgraph=True)
    for _ in range(4):
        h = batch()
        assert_close(compiled(h).detach().clone(), twin(h).detach())
        with torch.no_grad():
            for each in (model, twin):
                each.layer._weight_unconstrained.add_(0.1)


@gpu
@pytest.mark.slow
@pytest.mark.parametrize("case", ROWS, ids=lambda case: f"{case.constraint!r} {case.shape}")
def test_every_set(case):
    """Three values of x, each read by one and the same graph."""
    y = case.constraint.sample(case.shape, dtype=torch.float64)
    model = cp.Parametrized(y, case.constraint).cuda()
    twin = copy.deepcopy(model)
    weights = torch.randn_like(model.y.detach())

    def loss(m):
        return ((m.y + m().square()) * weights).real.sum()

    compiled = torch.compile(lambda: loss(model), mode="reduce-overhead", fullgraph=True)
    for _ in range(3):
        with torch.no_grad():
            model.x.add_(0.1 * torch.randn_like(model.x))
            twin.x.copy_(model.x)
        model.zero_grad()
        twin.zero_grad()
        value = compiled()
        value.backward()
        expected = loss(twin)
        expected.backward()
        assert_close(value, expected, rtol=1e-10, atol=1e-10)
        assert_close(model.x.grad, twin.x.grad, rtol=1e-9, atol=1e-9)
