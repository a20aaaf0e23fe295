"""deferred_pullback: gradients add up at y, f is differentiated once per optimiser step."""

import contextlib

import pytest
import torch
from torch import nn

import constrainedparams as cp

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

BATCHES = 4


def accumulate(layer, batches):
    """Used like no_sync(): all micro-batches but the last inside."""
    with cp.deferred_pullback(layer):
        for batch in batches[:-1]:
            layer(batch).sin().sum().backward()
    layer(batches[-1]).sin().sum().backward()


def test_one_derivative_per_optimizer_step():
    layer, counting = counted_linear(skew_exp)
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    reference = torch.optim.SGD([x], lr=0.1, momentum=0.9)
    for _ in range(3):
        counting.reset()
        batches = torch.rand(BATCHES, 2, 4)
        accumulate(layer, batches)
        for batch in batches:
            (batch @ skew_exp(x).t()).sin().sum().backward()
        assert counting.counts == (1, 1)
        equal(layer._weight_unconstrained.grad, x.grad)
        for o in (optimizer, reference):
            o.step()
            o.zero_grad()
        equal(layer._weight_unconstrained, x)


def test_one_object_entered_for_each_micro_batch():
    """As loops with no_sync() are written: its sums go on, those of another object are refused."""
    layer, counting = counted_linear(skew_exp)
    batches = torch.rand(BATCHES, 2, 4)
    deferral = cp.deferred_pullback(layer)
    for number, batch in enumerate(batches):
        with deferral if number < BATCHES - 1 else contextlib.nullcontext():
            layer(batch).sin().sum().backward()
        if number == 1:
            with pytest.raises(cp.PendingGradients, match="enter one object"):
                cp.deferred_pullback(layer).__enter__()
    assert counting.counts == (1, 1)
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    for batch in batches:
        (batch @ skew_exp(x).t()).sin().sum().backward()
    equal(layer._weight_unconstrained.grad, x.grad)


def test_inside_nothing_is_differentiated():
    layer, counting = counted_linear()
    with cp.deferred_pullback(layer):
        for _ in range(3):
            loss_of(layer.weight).backward()
        assert counting.counts == (1, 0)
    loss_of(layer.weight).backward()
    assert counting.counts == (1, 1)
    equal(layer._weight_unconstrained.grad, 4 * naive(tanh_exp, layer._weight_unconstrained)[1])


def test_gradients_of_everything_else_are_not_deferred():
    model = nn.Sequential(nn.Linear(4, 4), constrained_linear(bias=True))
    inputs = torch.rand(2, 4, requires_grad=True)
    with cp.deferred_pullback(model):
        model(inputs).sin().sum().backward()
        for p in (model[0].weight, model[0].bias, model[1].bias, inputs):
            assert p.grad.norm() > 0


def test_several_layers_and_a_shared_block():
    model = nn.Sequential(constrained_linear(), nn.Tanh(), constrained_linear(tanh_exp))
    xs = [model[i]._weight_unconstrained.detach().clone().requires_grad_() for i in (0, 2)]
    batches = torch.rand(BATCHES, 2, 4)
    accumulate(model, batches)
    for batch in batches:
        (torch.tanh(batch @ skew_exp(xs[0]).t()) @ tanh_exp(xs[1]).t()).sin().sum().backward()
    equal(model[0]._weight_unconstrained.grad, xs[0].grad)
    equal(model[2]._weight_unconstrained.grad, xs[1].grad)


def test_a_layer_outside_the_block_is_not_deferred():
    inside, outside = constrained_linear(), constrained_linear()
    with cp.deferred_pullback(inside):
        (loss_of(inside.weight) + loss_of(outside.weight)).backward()
    equal(outside._weight_unconstrained.grad, naive(skew_exp, outside._weight_unconstrained)[1])
    loss_of(inside.weight).backward()
    equal(inside._weight_unconstrained.grad, 2 * naive(skew_exp, inside._weight_unconstrained)[1])


def test_module_function_defers_its_own_parameters_too():
    from .oracle import Softened

    f = Softened()
    layer = constrained_linear(f)
    with cp.deferred_pullback(layer):
        loss_of(layer.weight).backward()
    loss_of(layer.weight).backward()
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    s = f.sharpness.detach().clone().requires_grad_()
    (2 * loss_of(torch.tanh(s * x) / s)).backward()
    equal(layer._weight_unconstrained.grad, x.grad)
    equal(f.sharpness.grad, s.grad)


def test_hooks_on_x_see_the_sum_once():
    layer, seen = constrained_linear(), []
    with cp.deferred_pullback(layer):
        loss_of(layer.weight).backward()
        layer._weight_unconstrained.register_hook(lambda g: seen.append(g.clone()))
    loss_of(layer.weight).backward()
    assert len(seen) == 1
    equal(seen[0], 2 * naive(skew_exp, layer._weight_unconstrained)[1])


def test_a_step_with_sums_pending_raises_and_changes_nothing():
    layer = constrained_linear(bias=True)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = [p.detach().clone() for p in layer.parameters()]
    with cp.deferred_pullback(layer):
        layer(torch.rand(2, 4)).sin().sum().backward()
    for _ in range(2):
        with pytest.raises(cp.PendingGradients):
            optimizer.step()
    for p, old in zip(layer.parameters(), before, strict=True):
        equal(p, old)


def test_a_step_inside_the_block_raises():
    layer = constrained_linear()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with cp.deferred_pullback(layer) as deferred:
        loss_of(layer.weight).backward()
        with pytest.raises(cp.PendingGradients):
            optimizer.step()
        deferred.discard()


def test_an_optimizer_of_another_model_may_step():
    layer, free = constrained_linear(), nn.Linear(4, 4)
    with cp.deferred_pullback(layer):
        loss_of(layer.weight).backward()
        free(torch.rand(2, 4)).sum().backward()
        torch.optim.SGD(free.parameters(), lr=0.1).step()
    loss_of(layer.weight).backward()
    equal(layer._weight_unconstrained.grad, 2 * naive(skew_exp, layer._weight_unconstrained)[1])


def test_an_exception_inside_drops_the_sums():
    layer = constrained_linear()
    with pytest.raises(ZeroDivisionError), cp.deferred_pullback(layer):
        loss_of(layer.weight).backward()
        raise ZeroDivisionError
    layer.zero_grad()
    loss_of(layer.weight).backward()
    equal(layer._weight_unconstrained.grad, naive(skew_exp, layer._weight_unconstrained)[1])
    torch.optim.SGD(layer.parameters(), lr=0.1).step()


def test_entering_a_new_block_with_sums_pending_raises():
    layer = constrained_linear()
    with cp.deferred_pullback(layer):
        loss_of(layer.weight).backward()
    with pytest.raises(cp.PendingGradients), cp.deferred_pullback(layer):
        pass
    # refused, so the sums are still there
    loss_of(layer.weight).backward()
    equal(layer._weight_unconstrained.grad, 2 * naive(skew_exp, layer._weight_unconstrained)[1])


def test_an_inner_block_belongs_to_the_outer_one():
    layer, counting = counted_linear()
    with cp.deferred_pullback(layer):
        loss_of(layer.weight).backward()
        with cp.deferred_pullback(layer):
            loss_of(layer.weight).backward()
        loss_of(layer.weight).backward()
        assert counting.derivatives == 0
    loss_of(layer.weight).backward()
    assert counting.counts == (1, 1)
    equal(layer._weight_unconstrained.grad, 4 * naive(tanh_exp, layer._weight_unconstrained)[1])


@pytest.mark.parametrize("where", ["inside", "after"])
def test_discard(where):
    layer = constrained_linear()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    with cp.deferred_pullback(layer) as deferred:
        loss_of(layer.weight).backward()
        if where == "inside":
            deferred.discard()
    if where == "after":
        deferred.discard()
    layer.zero_grad()
    optimizer.step()
    loss_of(layer.weight).backward()
    equal(layer._weight_unconstrained.grad, naive(skew_exp, layer._weight_unconstrained)[1])
    with cp.deferred_pullback(layer):
        pass


def test_an_empty_block_changes_nothing():
    layer, counting = counted_linear()
    with cp.deferred_pullback(layer):
        pass
    loss_of(layer.weight).backward()
    assert counting.counts == (1, 1)
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert_fresh(layer, tanh_exp)


def test_a_y_that_is_no_longer_current_is_pulled_back_at_once():
    """Sums into a graph that nobody will visit again would be silently lost."""
    layer = constrained_linear()
    x = layer._weight_unconstrained
    old = layer.weight
    cp.updated(layer, "weight")
    _ = layer.weight
    with cp.deferred_pullback(layer):
        loss_of(old).backward()
    total = naive(skew_exp, x)[1] * (2 if x.grad is None or x.grad.norm() == 0 else 1)
    assert x.grad is not None
    equal(x.grad, total)


def test_a_change_of_x_with_sums_pending_is_not_silent():
    """The sums belong to the old x: dropping them unseen would be a wrong step."""
    layer = constrained_linear(tanh_exp)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with cp.deferred_pullback(layer):
        loss_of(layer.weight).backward()
    change(layer._weight_unconstrained)
    with pytest.raises((cp.PendingGradients, RuntimeError)):
        loss_of(layer.weight).backward()
        optimizer.step()


def test_gradients_that_were_there_before_are_kept():
    layer = constrained_linear()
    loss_of(layer.weight).backward()
    with cp.deferred_pullback(layer):
        loss_of(layer.weight).backward()
    loss_of(layer.weight).backward()
    equal(layer._weight_unconstrained.grad, 3 * naive(skew_exp, layer._weight_unconstrained)[1])


def test_several_cycles_without_leftovers():
    layer, counting = counted_linear(skew_exp)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01, fused=True)
    for _ in range(4):
        counting.reset()
        accumulate(layer, torch.rand(BATCHES, 2, 4))
        optimizer.step()
        optimizer.zero_grad()
        assert counting.counts == (1, 1)
    assert_fresh(layer, skew_exp)
