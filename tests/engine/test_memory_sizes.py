"""Bytes: nothing but parameters between steps, the peak against the naive model, no growth."""

import gc
import weakref

import pytest
import torch
from torch import nn

import constrainedparams as cp
from constrainedparams import Skew

from .oracle import change, constrained_linear, loss_of, skew_exp, tanh_exp


@pytest.fixture
def without_gc():
    gc.disable()
    yield
    gc.enable()


N, LAYERS = 64, 6
MATRIX = N * N * 8


class NaiveLayer(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.x = nn.Parameter(0.1 * torch.rand(n, n))

    def forward(self, inputs):
        return inputs @ skew_exp(self.x).t()


class NaiveSkew(NaiveLayer):
    def forward(self, inputs):
        return inputs @ Skew()(self.x).t()


def engine_model(f):
    return nn.Sequential(*(constrained_linear(f, N) for _ in range(LAYERS)))


def naive_model(layer):
    return nn.Sequential(*(layer(N) for _ in range(LAYERS)))


def step_of(model, rows=2):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs = torch.rand(rows, N)

    def step():
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def test_between_steps_only_parameters_live(allocations):
    net, _ = allocations(step_of(engine_model(skew_exp)))
    assert net <= 0


def test_peak_against_the_naive_model(allocations):
    """Gradients of x stand beside all graphs, which live until the step: a matrix per layer.

    And two in all: dL/dy while its pullback runs, and the first y, which no backward needs.
    """
    _, peak = allocations(step_of(engine_model(skew_exp)))
    _, reference = allocations(step_of(naive_model(NaiveLayer)))
    assert peak <= reference + (LAYERS + 2.1) * MATRIX, (peak / MATRIX, reference / MATRIX)


def test_peak_of_a_step_with_large_activations(allocations):
    """There the peak stands where backward begins; the value of a set is kept once, in y."""
    rows = 40 * N
    _, peak = allocations(step_of(engine_model(Skew()), rows))
    _, reference = allocations(step_of(naive_model(NaiveSkew), rows))
    assert peak <= reference + 3 * MATRIX, (peak / MATRIX, reference / MATRIX)


READS = 48


def test_peak_does_not_grow_with_the_reads(allocations):
    layer, naive = constrained_linear(skew_exp, N), NaiveLayer(N)

    def unrolled(module, reads):
        def work():
            h = torch.rand(2, N)
            for _ in range(reads):
                h = module(h)
            h.square().sum().backward()
            module.zero_grad()
            cp.updated(layer)

        return work

    (_, one), (_, many) = (allocations(unrolled(layer, reads)) for reads in (1, READS))
    _, reference = allocations(unrolled(naive, READS))
    # the activations, 2 x N each, and one gradient of y while it is summed
    assert many <= one + 2 * MATRIX + READS * 4 * 2 * N * 8, (one / MATRIX, many / MATRIX)
    assert many < reference / 2, (many / MATRIX, reference / MATRIX)


def test_no_growth_over_steps(without_gc, allocations):
    """Neither tensors nor other objects, with gc off."""
    layer = constrained_linear(tanh_exp, 8)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)

    def steps(n):
        for _ in range(n):
            for _ in range(2):
                layer(torch.rand(2, 8)).square().sum().backward()
            with torch.no_grad():
                layer(torch.rand(2, 8))
            optimizer.step()
            optimizer.zero_grad()

    steps(50)
    before = len(gc.get_objects())
    steps(200)
    assert len(gc.get_objects()) - before < 20
    assert allocations(lambda: steps(20))[0] <= 0


def test_no_growth_over_modules(without_gc):
    """Registries must not keep dead modules."""

    def make():
        model = nn.Sequential(constrained_linear(tanh_exp), constrained_linear())
        loss_of(model[0].weight).backward()
        return weakref.ref(model[0]), weakref.ref(model[0]._weight_unconstrained)

    refs = [make() for _ in range(20)]
    assert all(r() is None for pair in refs for r in pair)


def test_former_values_are_watched_only_while_the_user_holds_them(without_gc):
    layer = constrained_linear(tanh_exp)
    held = []
    for seed in range(10):
        change(layer._weight_unconstrained, seed)
        held.append(layer.weight)
    refs = [weakref.ref(y) for y in held]
    change(layer._weight_unconstrained)
    _ = layer.weight
    held.clear()
    assert sum(r() is not None for r in refs) == 0
