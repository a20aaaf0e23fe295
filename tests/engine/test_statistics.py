"""statistics(model): evaluations, pullbacks, hits and the last reason, per constrained tensor."""

import torch
from torch import nn

import constrainedparams as cp

from .oracle import Symmetric, change, constrained_linear, counted_linear, loss_of, skew_exp


def record(model, name):
    r = cp.statistics(model)[name]
    return r.evaluations, r.pullbacks, r.hits


def test_names():
    model = nn.Sequential(constrained_linear(), nn.Sequential(constrained_linear(bias=True)))
    cp.register_constrained_parameter(model[1][0], "bias", torch.tanh)
    assert set(cp.statistics(model)) == {"0.weight", "1.0.weight", "1.0.bias"}
    assert set(cp.statistics(model[0])) == {"weight"}
    assert cp.statistics(nn.Linear(2, 2)) == {}


def test_counts_are_those_of_a_counting_function():
    layer, counting = counted_linear(skew_exp)
    start = record(layer, "weight")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    reads = 0
    for step in range(4):
        for _ in range(step + 1):
            loss_of(layer.weight).backward()
            reads += 1
        with torch.no_grad():
            _ = layer.weight
            reads += 1
        optimizer.step()
        optimizer.zero_grad()
    evaluations, pullbacks, hits = (
        a - b for a, b in zip(record(layer, "weight"), start, strict=True)
    )
    assert (evaluations, pullbacks) == counting.counts == (4, 10)
    assert hits == reads - evaluations


def test_statistics_evaluate_nothing():
    layer, counting = counted_linear()
    before = record(layer, "weight")
    assert record(layer, "weight") == before
    assert counting.evaluations == 0


def test_deferred_pullbacks_count_once():
    layer, _ = counted_linear()
    start = record(layer, "weight")[1]
    with cp.deferred_pullback(layer):
        for _ in range(3):
            loss_of(layer.weight).backward()
    loss_of(layer.weight).backward()
    assert record(layer, "weight")[1] - start == 1


def test_the_reason_tells_what_happened():
    layer = constrained_linear(Symmetric())

    def reason():
        _ = layer.weight
        return cp.statistics(layer)["weight"].reason

    reasons = []
    assert isinstance(reason(), str)
    for event in (
        lambda: change(layer._weight_unconstrained),
        lambda: cp.updated(layer, "weight"),
        lambda: setattr(layer, "_weight_unconstrained", nn.Parameter(torch.rand(4, 4))),
    ):
        event()
        reasons.append(reason())
    assert all(isinstance(r, str) and r for r in reasons)
    assert len(set(reasons)) > 1


def test_independent_of_the_copy():
    import copy

    layer, _ = counted_linear()
    _ = layer.weight
    twin = copy.deepcopy(layer)
    before = record(layer, "weight")
    loss_of(twin.weight).backward()
    assert record(layer, "weight") == before
