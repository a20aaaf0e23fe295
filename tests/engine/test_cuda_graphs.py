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


@pytest.mark.parametrize("train", [True, False])
def test_a_read_while_a_graph_is_captured_holds_f(monkeypatch, train):
    """The value of before would stay in the graph for ever."""
    counting = Counting(skew_exp)
    layer = constrained_linear(counting).train(train)
    before = warm(layer)
    counting.reset()
    record = next(iter(layer.__dict__["_constrained_slots"].values())).record
    record.gpu = True
    monkeypatch.setattr(private, "capturing", lambda: False)
    assert layer.weight is before
    with monkeypatch.context() as patched:
        patched.setattr(private, "capturing", lambda: True)
        patched.setattr(private, "transforming", lambda _: True)  # x says that it is on the CPU
        inside = layer.weight
    assert inside is not before
    assert inside.grad_fn is not None
    assert counting.counts[0] == 1
    assert layer.weight is before  # the cache is as it was


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
