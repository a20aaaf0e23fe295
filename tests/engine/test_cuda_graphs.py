"""CUDA graphs: what is captured holds f, and replays follow x. Averages whose writes move no version."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import constrainedparams as cp
from constrainedparams.core import private

from .oracle import Counting, assert_fresh, change, constrained_linear, skew_exp, warm

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


@pytest.fixture
def on_stream(monkeypatch):
    """Says on which CUDA stream what follows runs; -1: one that is captured."""

    def enter(number):
        monkeypatch.setattr(private, "stream", lambda _: number)

    return enter


def adding(layer):
    """What is kept at the node that adds to x.grad, as long as some graph holds that."""
    return torch.autograd.graph.get_gradient_edge(layer._weight_unconstrained).node.metadata


@pytest.mark.parametrize("train", [True, False])
def test_a_read_while_a_graph_is_captured_holds_f(on_stream, train):
    """The value of before would stay in the graph for ever, and its node adds on another stream."""
    counting = Counting(skew_exp)
    on_stream(0)
    layer = constrained_linear(counting).train(train)
    before = warm(layer).detach().clone()
    adding(layer)["made"] = "before"
    counting.reset()
    assert layer.weight.grad_fn.next_functions[0][0].metadata == {"made": "before"}
    on_stream(-1)
    inside = layer.weight
    assert adding(layer) == {}
    assert inside.grad_fn is not None
    assert counting.counts[0] == 1
    assert_close(inside, before)
    on_stream(0)
    assert_close(layer.weight, before)
    assert counting.counts[0] == 2


def test_a_write_to_y_outlives_a_capture(on_stream):
    """The graph has f of the x that is there; the write is noticed by the next read outside."""
    on_stream(0)
    layer = constrained_linear(cp.Orthogonal())
    y = layer.weight
    before = y.detach().clone()
    with torch.no_grad():
        y.mul_(-1)
    on_stream(-1)
    assert_close(layer.weight, before)
    on_stream(0)
    assert_close(layer.weight, -before)


def test_another_stream_for_a_batch(on_stream):
    model = nn.ModuleList(constrained_linear(cp.Orthogonal("cayley")) for _ in range(3))
    cp.batch(model)
    for number in (0, 7):
        on_stream(number)
        model[0].weight.sum()
        for layer in model:
            assert adding(layer) == {}
            adding(layer)["stream"] = number
    assert [count.evaluations for count in cp.statistics(model).values()] == [2, 2, 2]


@pytest.mark.parametrize("grad", [True, False])
def test_another_stream_has_a_value_of_its_own(on_stream, grad):
    """It need not wait for the one that y was made on, where x may have been ready for long."""
    counting = Counting(skew_exp)
    on_stream(0)
    layer = constrained_linear(counting)
    counting.reset()
    for number in (0, 0, 7, 7, 7, 0):
        on_stream(number)
        with torch.set_grad_enabled(grad):
            layer.weight.sum()
        adding(layer)["stream"] = adding(layer).get("stream", number)
        assert adding(layer)["stream"] == number
    assert counting.counts[0] == 2
    assert cp.statistics(layer)["weight"].reason == "another CUDA stream"


def _layer():
    torch.manual_seed(0)
    layer = nn.Linear(8, 8, bias=False, device="cuda", dtype=torch.float32)
    nn.init.orthogonal_(layer.weight)
    return cp.register_constrained_parameter(layer, "weight", cp.Orthogonal("cayley"))


@gpu
def test_a_whole_captured_step_trains_as_eager():
    layer = _layer()
    twin = copy.deepcopy(layer)
    optimisers = [torch.optim.Adam(m.parameters(), 0.01, capturable=True) for m in (layer, twin)]
    batch = torch.randn(5, 8, device="cuda", dtype=torch.float32)

    def step(module, optimiser):
        optimiser.zero_grad(set_to_none=True)
        loss = module(batch).sin().sum()
        loss.backward()
        optimiser.step()
        return loss

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step(layer, optimisers[0])
            step(twin, optimisers[1])
    torch.cuda.current_stream().wait_stream(aside)
    assert layer.weight.requires_grad  # a warm cache, which the graph must not take for f
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(layer, optimisers[0])
    for _ in range(4):
        graph.replay()
        assert_close(loss, step(twin, optimisers[1]), rtol=1e-4, atol=1e-4)
    assert_close(layer._weight_unconstrained, twin._weight_unconstrained, rtol=1e-4, atol=1e-4)
    cp.updated(layer)  # a replay tells nobody that it wrote to x
    assert_close(layer.weight, twin.weight, rtol=1e-4, atol=1e-4)


@gpu
# its warm-up keeps its outputs, and with them the node that adds to x.grad, on another stream
@pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream")
def test_make_graphed_callables_follows_x():
    layer = _layer()
    twin = copy.deepcopy(layer)
    batch = torch.randn(5, 8, device="cuda", dtype=torch.float32)
    assert layer.weight.requires_grad
    graphed = torch.cuda.make_graphed_callables(layer, (batch.clone(),))
    optimisers = [torch.optim.SGD(m.parameters(), 0.1) for m in (layer, twin)]
    for _ in range(4):
        outputs = [m(batch) for m in (graphed, twin)]
        assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)
        for output, optimiser in zip(outputs, optimisers, strict=True):
            optimiser.zero_grad()
            output.sin().sum().backward()
            optimiser.step()


def unseen(averages, models, _):
    """As torch's own on CUDA, where ``_foreach_lerp_`` moves no version."""
    with torch.autograd._unsafe_preserve_version_counter(tuple(averages)):
        torch._foreach_lerp_(averages, models, 0.1)


def test_an_average_whose_writes_move_no_version():
    layer = constrained_linear()
    average = torch.optim.swa_utils.AveragedModel(layer, multi_avg_fn=unseen)
    for seed in range(3):
        warm(average.module)
        y = warm(layer)
        average.update_parameters(layer)
        assert layer.weight is y  # what is averaged was only looked at
        assert_fresh(average.module, skew_exp)
        change(layer._weight_unconstrained, seed)


@gpu
def test_a_read_does_not_take_what_another_stream_has_yet_to_compute():
    layer = _layer()
    expected = layer.weight.detach().clone()
    cp.updated(layer)
    torch.cuda.synchronize()
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        torch.cuda._sleep(200_000_000)
        _ = layer.weight
    assert_close(layer.weight.detach().clone(), expected)
