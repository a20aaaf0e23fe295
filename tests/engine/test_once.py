"""f runs once per change of x and its derivative once per backward, with no context manager."""

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import (
    Counting,
    Softened,
    assert_fresh,
    change,
    constrained_linear,
    counted_linear,
    equal,
    loss_of,
    naive,
    skew_exp,
    tanh_exp,
)


def grad_of(layer):
    return layer._weight_unconstrained.grad


# Reads ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("reads", [1, 2, 50])
def test_any_number_of_reads(reads):
    layer, counting = counted_linear()
    total = sum(loss_of(layer.weight) for _ in range(reads))
    total.backward()
    assert counting.counts == (1, 1)
    equal(grad_of(layer), reads * naive(tanh_exp, layer._weight_unconstrained)[1])


def test_forwards_count_as_reads():
    layer, counting = counted_linear(skew_exp)
    h = inputs = torch.rand(3, 4)
    for _ in range(10):
        h = layer(h)
    h.sin().sum().backward()
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    for _ in range(10):
        inputs = inputs @ skew_exp(x).t()
    inputs.sin().sum().backward()
    equal(grad_of(layer), x.grad)
    assert counting.counts == (1, 1)


def test_the_same_object_until_x_changes():
    layer, _ = counted_linear()
    y = layer.weight
    with torch.no_grad():
        assert layer.weight is y
    with torch.inference_mode():
        assert layer.weight is y
    loss_of(y).backward()
    assert layer.weight is y
    change(layer._weight_unconstrained)
    assert layer.weight is not y


MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("place", ["before", "between", "after"])
def test_reads_without_grad(mode, place):
    layer, counting = counted_linear()
    value, grad = naive(tanh_exp, layer._weight_unconstrained)

    def read():
        with mode():
            equal(layer.weight.clone(), value)
            assert not (layer.weight * 1).requires_grad

    if place == "before":
        read()
    loss = loss_of(layer.weight)
    if place == "between":
        read()
    loss.backward()
    if place == "after":
        read()
        loss_of(layer.weight).backward()
        grad = 2 * grad
    equal(grad_of(layer), grad)
    assert counting.evaluations == 1
    assert counting.derivatives == (2 if place == "after" else 1)


def test_eval_between_steps():
    """Per change of x at most one evaluation with a graph and one, in eval(), without."""
    layer, counting = counted_linear()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        counting.reset()
        layer.eval()
        with torch.no_grad():
            layer(torch.rand(2, 4))
            layer(torch.rand(2, 4))
        layer.train()
        layer(torch.rand(2, 4)).square().sum().backward()
        layer.eval()
        with torch.no_grad():
            layer(torch.rand(2, 4))
        layer.train()
        layer(torch.rand(2, 4)).square().sum().backward()
        assert counting.evaluations <= 2 and counting.derivatives == 2
        optimizer.step()
        optimizer.zero_grad()
    assert_fresh(layer, tanh_exp)


def test_eval_after_training_reads_costs_nothing():
    layer, counting = counted_linear()
    layer(torch.rand(2, 4)).square().sum().backward()
    layer.eval()
    with torch.no_grad():
        layer(torch.rand(2, 4))
    with torch.inference_mode():
        layer(torch.rand(2, 4))
    assert counting.counts == (1, 1)


# Kinds of f ----------------------------------------------------------------------------------
def test_module_function_with_parameters():
    f = Softened()
    layer = constrained_linear(f)
    assert layer._weight_function is f
    sharpness = dict(layer.named_parameters())["_weight_function.sharpness"]
    fired = []
    sharpness.register_hook(lambda g: fired.append(1))
    sum(loss_of(layer.weight) for _ in range(5)).backward()
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    s = sharpness.detach().clone().requires_grad_()
    (5 * loss_of(torch.tanh(s * x) / s)).backward()
    equal(grad_of(layer), x.grad)
    equal(sharpness.grad, s.grad)
    assert fired == [1]
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    optimizer.step()
    assert_fresh(layer, f)
    change(sharpness)
    assert_fresh(layer, f)


def test_module_function_runs_once():
    class Counted(Softened):
        calls = 0

        def forward(self, x):
            type(self).calls += 1
            return super().forward(x)

    f = Counted()
    layer = constrained_linear(f)
    change(f.sharpness)
    Counted.calls = 0
    for _ in range(5):
        layer(torch.rand(2, 4)).sum().backward()
        with torch.no_grad():
            layer(torch.rand(2, 4))
    assert Counted.calls == 1


def test_random_f_is_drawn_once_per_change():
    layer = constrained_linear(lambda x: x + torch.rand_like(x))
    first = layer.weight.detach().clone()
    loss_of(layer.weight).backward()
    with torch.no_grad():
        equal(layer.weight, first)
    change(layer._weight_unconstrained)
    assert not torch.equal(layer.weight, first)


def test_rnn_of_64_reads():
    counting = Counting(skew_exp)
    cell = nn.RNNCell(3, 8)
    cp.register_constrained_parameter(cell, "weight_hh", counting)
    reference = nn.RNNCell(3, 8)
    reference.load_state_dict(
        {n.replace("_weight_hh_unconstrained", "weight_hh"): v
         for n, v in cell.state_dict().items()}
    )  # fmt: skip
    x = reference.weight_hh.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD(cell.parameters(), lr=0.01)
    change(cell._weight_hh_unconstrained, seed=1)
    change(x, seed=1)
    counting.reset()
    for step in range(2):
        h = k = torch.zeros(2, 8)
        for i in torch.randn(64, 2, 3):
            h = cell(i, h)
            k = torch.tanh(
                i @ reference.weight_ih.t()
                + reference.bias_ih
                + k @ skew_exp(x).t()
                + reference.bias_hh
            )
        h.square().sum().backward()
        k.square().sum().backward()
        assert counting.counts == (step + 1, step + 1)
        equal(cell._weight_hh_unconstrained.grad, x.grad, rtol=1e-9, atol=1e-11)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for p in (x, reference.weight_ih, reference.bias_ih, reference.bias_hh):
                p -= 0.01 * p.grad
                p.grad = None
