"""The derivative of f runs once per backward, whatever kind of backward it is."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .oracle import (
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
    layer._weight_unconstrained.register_hook(torch.Tensor.neg)  # no function of Python
    loss_of(layer.weight).backward()
    equal(grad_of(layer), -2 * naive(tanh_exp, layer._weight_unconstrained)[1])


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


def test_x_used_beside_y():
    """A penalty on x itself: one hook call, with the sum of both."""
    layer, counting = counted_linear()
    x, seen = layer._weight_unconstrained, []
    x.register_hook(lambda g: seen.append(g.clone()))
    (x.square().sum() + loss_of(layer.weight)).backward()
    assert len(seen) == 1 and counting.counts == (1, 1)
    equal(x.grad, 2 * x + naive(tanh_exp, x)[1])


def test_a_backward_after_the_module_is_gone():
    layer = constrained_linear()
    x, loss = layer._weight_unconstrained, loss_of(layer.weight)
    del layer
    loss.backward()
    equal(x.grad, naive(skew_exp, x)[1])


def test_gradient_with_respect_to_y():
    layer, counting = counted_linear()
    y = layer.weight
    (got,) = torch.autograd.grad(loss_of(y), y)
    want = y.detach().clone().requires_grad_()
    equal(got, torch.autograd.grad(loss_of(want), want)[0])
    assert counting.counts == (1, 0)
