"""f runs once per change of x and its derivative once per backward, with no context manager."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

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


# Backward ------------------------------------------------------------------------------------
def test_several_backwards_without_retain_graph():
    layer, counting = counted_linear()
    _, grad = naive(tanh_exp, layer._weight_unconstrained)
    for passes in range(1, 4):
        loss_of(layer.weight).backward()
        assert counting.counts == (1, passes)
        equal(grad_of(layer), passes * grad)


def test_two_losses_on_one_read():
    layer, counting = counted_linear()
    y = layer.weight
    first, second = loss_of(y), y.square().sum()
    first.backward()
    second.backward()
    assert counting.counts == (1, 2)
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    (loss_of(tanh_exp(x)) + tanh_exp(x).square().sum()).backward()
    equal(grad_of(layer), x.grad)


def test_two_losses_summed_are_one_backward():
    layer, counting = counted_linear()
    (loss_of(layer.weight) + layer.weight.square().sum()).backward()
    assert counting.counts == (1, 1)


def test_gradient_accumulation():
    layer, counting = counted_linear(skew_exp)
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    batches = torch.rand(4, 3, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        counting.reset()
        for batch in batches:
            layer(batch).sin().sum().backward()
            (batch @ skew_exp(x).t()).sin().sum().backward()
        assert counting.counts == (1, 4)
        equal(grad_of(layer), x.grad)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            x -= 0.1 * x.grad
            x.grad = None
        equal(layer._weight_unconstrained, x)


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_closures(line_search):
    layer, counting = counted_linear()
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    calls = []

    def closure_for(optimizer, read):
        def closure():
            optimizer.zero_grad()
            loss = loss_of(read()) + loss_of(read())
            loss.backward()
            calls.append(optimizer)
            return loss

        return closure

    options = {"lr": 0.3, "max_iter": 6, "line_search_fn": line_search}
    ours = torch.optim.LBFGS(layer.parameters(), **options)
    theirs = torch.optim.LBFGS([x], **options)
    ours.step(closure_for(ours, lambda: layer.weight))
    theirs.step(closure_for(theirs, lambda: tanh_exp(x)))
    n = calls.count(ours)
    assert n == calls.count(theirs) > 2
    assert counting.evaluations <= n and counting.derivatives == n
    equal(layer._weight_unconstrained, x)
    assert_fresh(layer, tanh_exp)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_create_graph(order):
    layer, counting = counted_linear(skew_exp)
    x = layer._weight_unconstrained
    reference = x.detach().clone().requires_grad_()

    def derivative(value, argument):
        for k in range(order):
            (grad,) = torch.autograd.grad(value, argument, create_graph=k < order - 1)
            value = grad.pow(3).sum() if k < order - 1 else grad
        return value

    got = derivative(loss_of(layer.weight) + layer.weight.pow(3).sum(), x)
    y = skew_exp(reference)
    equal(got, derivative(loss_of(y) + y.pow(3).sum(), reference), rtol=1e-10, atol=1e-11)
    assert counting.evaluations == 1
    # the graph survives: a first-order pass afterwards
    loss_of(layer.weight).backward()
    assert counting.evaluations == 1
    equal(x.grad, naive(skew_exp, x)[1])


def test_gradient_penalty_trains():
    """A second-order loss in a training loop: double backward through backward()."""
    layer, counting = counted_linear(skew_exp)
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        counting.reset()
        for read, leaf in ((lambda: layer.weight, None), (lambda: skew_exp(x), x)):
            inputs = torch.linspace(0, 1, 8).reshape(2, 4).requires_grad_()
            out = torch.tanh(inputs @ read().t()).pow(2).sum()
            (slope,) = torch.autograd.grad(out, inputs, create_graph=True)
            (out + slope.square().sum()).backward()
            assert leaf is None or leaf.grad is not None
        assert counting.counts == (1, 1)
        equal(grad_of(layer), x.grad)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            x -= 0.1 * x.grad
            x.grad = None


def test_finite_differences():
    """An oracle without autograd."""
    layer, _ = counted_linear(skew_exp, n=3)
    x, h = layer._weight_unconstrained, 1e-6
    (grad,) = torch.autograd.grad(loss_of(layer.weight), x)
    numeric = torch.zeros_like(grad)
    for i in range(3):
        for j in range(3):
            for sign in (1, -1):
                with torch.no_grad():
                    x[i, j] += sign * h
                    numeric[i, j] += sign * loss_of(layer.weight) / (2 * h)
                    x[i, j] -= sign * h
    equal(grad, numeric, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant):
    layer, counting = counted_linear(skew_exp)
    head = nn.Linear(4, 4)

    def block(h):
        return torch.tanh(head(layer(torch.tanh(layer(h)))))

    h = inputs = torch.rand(3, 4, requires_grad=True)
    for _ in range(3):
        h = checkpoint(block, h, use_reentrant=reentrant)
    h.sin().sum().backward()
    ours, ours_in = grad_of(layer).clone(), inputs.grad.clone()
    assert counting.evaluations == 1
    if not reentrant:
        assert counting.derivatives == 1
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    inputs.grad = None
    h = inputs
    for _ in range(3):
        h = torch.tanh(head(torch.tanh(h @ skew_exp(x).t()) @ skew_exp(x).t()))
    h.sin().sum().backward()
    equal(ours, x.grad)
    equal(ours_in, inputs.grad)


def test_saved_tensor_hooks_of_the_caller_see_nothing_of_f():
    layer, _ = counted_linear(skew_exp)
    packed = []

    def pack(t):
        packed.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = layer.weight
    assert not packed
    with torch.autograd.graph.save_on_cpu():
        change(layer._weight_unconstrained)
        loss = loss_of(layer.weight)
    loss.backward()
    equal(grad_of(layer), naive(skew_exp, layer._weight_unconstrained)[1])
    assert y.shape == (4, 4)


def test_a_backward_after_x_changed_in_place_raises():
    """f saved its input: torch's own version check must survive."""
    layer = constrained_linear(lambda x: x * x * x)
    loss = loss_of(layer.weight)
    change(layer._weight_unconstrained)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# Hooks ---------------------------------------------------------------------------------------
def test_hooks_on_x_fire_once_with_the_total():
    layer, _ = counted_linear()
    x, seen, accumulated = layer._weight_unconstrained, [], []
    x.register_hook(lambda g: seen.append(g.clone()))
    x.register_post_accumulate_grad_hook(lambda p: accumulated.append(p.grad.clone()))
    sum(loss_of(layer.weight) for _ in range(9)).backward()
    total = 9 * naive(tanh_exp, x)[1]
    assert len(seen) == len(accumulated) == 1
    equal(seen[0], total)
    equal(accumulated[0], total)


def test_a_hook_on_x_may_replace_the_gradient():
    layer, _ = counted_linear()
    layer._weight_unconstrained.register_hook(lambda g: 2 * g)
    loss_of(layer.weight).backward()
    equal(grad_of(layer), 2 * naive(tanh_exp, layer._weight_unconstrained)[1])


def test_retain_grad_and_hooks_on_y():
    layer, counting = counted_linear()
    y, seen = layer.weight, []
    y.retain_grad()
    y.register_hook(lambda g: seen.append(g.clone()))
    (loss_of(layer.weight) + loss_of(layer.weight)).backward()
    reference = tanh_exp(layer._weight_unconstrained).detach().requires_grad_()
    (want,) = torch.autograd.grad(2 * loss_of(reference), reference)
    equal(y.grad, want)
    assert len(seen) == 1
    equal(seen[0], want)
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
