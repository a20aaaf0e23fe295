"""A slot is replaced by one assignment: threads may compute twice, none reads a torn or old value."""

import threading

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import assert_fresh, constrained_linear, equal, loss_of, skew_exp, tanh_exp, warm


def run(*targets, timeout=30):
    """Run every target in a thread of its own; raise what one of them raised."""
    errors = []

    def guarded(target):
        def work():
            try:
                target()
            except BaseException as error:
                errors.append(error)

        return work

    threads = [threading.Thread(target=guarded(t), daemon=True) for t in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def spread(x):
    """A number to a vector; x is read once, then several steps: a torn value is not constant."""
    y = x.exp()
    return torch.cat([y * torch.ones(8) for _ in range(4)])


@pytest.mark.parametrize("assign", [False, True], ids=["copy", "assign"])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_readers_while_another_thread_loads(mode, assign):
    module = nn.Module()
    module.w = nn.Parameter(torch.zeros(1))
    cp.register_constrained_parameter(module, "w", spread)
    allowed = {round(float(torch.tensor(float(k)).exp()), 9) for k in range(3)}
    done = threading.Event()

    def read():
        while not done.is_set():
            with mode():
                value = module.w.detach().clone()
            assert (value == value[0]).all()
            assert round(float(value[0]), 9) in allowed

    def load():
        try:
            for k in range(150):
                state = {"_w_unconstrained": torch.full((1,), float(k % 3))}
                module.load_state_dict(state, assign=assign)
        finally:
            done.set()

    run(load, read, read, read)
    equal(module.w, spread(module._w_unconstrained))


def test_a_load_while_f_runs_is_not_lost():
    """x's version is read before f: what f computed from the old x must not pass for the new."""
    inside, loaded = threading.Event(), threading.Event()
    slow = []

    def f(x):
        y = x.tanh()
        if slow:
            slow.clear()
            inside.set()
            assert loaded.wait(10)
        return y

    layer = constrained_linear(f)
    with torch.no_grad():
        layer._weight_unconstrained.add_(0.1)
    slow.append(True)

    def read():
        with torch.no_grad():
            _ = layer.weight

    def load():
        assert inside.wait(10)
        layer.load_state_dict({"_weight_unconstrained": torch.full((4, 4), 0.7)})
        loaded.set()

    run(read, load)
    equal(layer.weight, torch.full((4, 4), 0.7).tanh())
    assert_fresh(layer, torch.tanh)


def test_training_in_eight_threads_with_separate_models():
    def train(seed):
        generator = torch.Generator().manual_seed(seed)
        layer = constrained_linear(skew_exp)
        with torch.no_grad():
            layer._weight_unconstrained.copy_(torch.rand(4, 4, generator=generator))
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9)
        for _ in range(10):
            optimizer.zero_grad()
            for _ in range(3):
                loss_of(layer(torch.rand(2, 4, generator=generator))).backward()
            with torch.no_grad():
                _ = layer.weight
            optimizer.step()
        return layer.weight.detach().clone()

    want = {seed: train(seed) for seed in range(8)}
    got = {}

    def work(seed):
        torch.set_default_dtype(torch.float64)
        got[seed] = train(seed)

    run(*[lambda s=seed: work(s) for seed in range(8)])
    for seed in range(8):
        equal(got[seed], want[seed])


def test_grad_mode_of_one_thread_is_not_that_of_another():
    layer = constrained_linear(tanh_exp)
    with torch.no_grad():
        layer._weight_unconstrained.add_(0.1)
    barrier, graded = threading.Barrier(2), []

    def without():
        with torch.inference_mode():
            barrier.wait(10)
            for _ in range(50):
                _ = layer.weight
                layer.weight.updated()

    def with_grad():
        barrier.wait(10)
        for _ in range(50):
            graded.append(layer.weight.requires_grad)
            layer.weight.updated()

    run(without, with_grad)
    assert all(graded)
    assert_fresh(layer, tanh_exp)


def test_backward_in_another_thread():
    layer = constrained_linear(skew_exp)
    losses = [loss_of(layer.weight) for _ in range(4)]
    for loss in losses:
        run(loss.backward)
    x = layer._weight_unconstrained
    want = x.detach().clone().requires_grad_()
    (4 * loss_of(skew_exp(want))).backward()
    equal(x.grad, want.grad)


def test_backwards_at_the_same_time():
    layers = [constrained_linear(skew_exp) for _ in range(4)]
    shared = constrained_linear(tanh_exp)
    losses = [loss_of(layer.weight) for layer in layers] + [loss_of(shared.weight)]
    run(*[loss.backward for loss in losses])
    for layer in layers:
        warm(layer)
        assert_fresh(layer, skew_exp)
    assert_fresh(shared, tanh_exp)


def test_a_backward_of_another_thread_inside_the_deferred_block_is_deferred():
    layer = constrained_linear(skew_exp)
    with cp.deferred_pullback(layer):
        run(loss_of(layer.weight).backward)
    loss_of(layer.weight).backward()
    x = layer._weight_unconstrained
    want = x.detach().clone().requires_grad_()
    (2 * loss_of(skew_exp(want))).backward()
    equal(x.grad, want.grad)


def test_replicas_see_their_own_x():
    """As nn.DataParallel makes them: x is an attribute of the replica, not a parameter."""
    layer = constrained_linear(tanh_exp)
    warm(layer)
    replica = layer._replicate_for_data_parallel()
    x = layer._weight_unconstrained
    other = (x * 2).detach()
    replica._weight_unconstrained = other
    equal(replica.weight, tanh_exp(other))
    assert_fresh(layer, tanh_exp)
