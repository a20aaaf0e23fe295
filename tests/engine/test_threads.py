"""A slot is replaced by one assignment: threads may compute twice, none reads a torn or old value."""

import copy
import threading
import time

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


class Softplus(nn.Module):
    """f with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.8))

    def forward(self, x):
        return nn.functional.softplus(self.slope * x)


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


@pytest.mark.parametrize("assign", [False, True], ids=["copy", "assign"])
@pytest.mark.parametrize("map_", ["exp", "cayley"])
def test_readers_of_a_set_with_map_state_while_another_thread_loads(map_, assign):
    """x and base are two tensors of a checkpoint; whatever is read is finite and on the set."""
    layer, other = (constrained_linear(cp.Orthogonal(map_)) for _ in range(2))
    states = [copy.deepcopy(each.state_dict()) for each in (layer, other)]
    done = threading.Event()

    def read():
        torch.set_default_dtype(torch.float64)
        while not done.is_set():
            with torch.inference_mode():
                y = layer.weight.clone()
            defect = y.mT @ y - torch.eye(4)
            assert defect.abs().max() < 1e-12

    def load():
        try:
            for k in range(100):
                layer.load_state_dict(copy.deepcopy(states[k % 2]), assign=assign)
        finally:
            done.set()

    run(load, read, read)
    equal(layer.weight, other.weight)
    loss_of(layer.weight).backward()
    loss_of(other.weight).backward()
    equal(layer._weight_unconstrained.grad, other._weight_unconstrained.grad)


KINDS = {
    "callable": lambda: skew_exp,
    "exp": cp.Orthogonal,
    "cayley": lambda: cp.Orthogonal("cayley"),
    "positive definite": cp.PositiveDefinite,
    "module": Softplus,
}


def train(layer, seed, steps=6):
    """Micro-batches, deferral, a read without grad, a step."""
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9, fused=seed % 2 == 0)
    for _ in range(steps):
        optimizer.zero_grad()
        with cp.deferred_pullback(layer):
            loss_of(layer(torch.rand(2, 4, generator=generator))).backward()
        for _ in range(2):
            loss_of(layer(torch.rand(2, 4, generator=generator))).backward()
        with torch.inference_mode():
            _ = layer.weight
        optimizer.step()
    return layer.weight.detach().clone()


@pytest.mark.parametrize("kind", KINDS)
def test_training_in_eight_threads_with_separate_models(kind):
    layers = [constrained_linear(KINDS[kind]()) for _ in range(8)]
    want = [train(copy.deepcopy(layer), seed) for seed, layer in enumerate(layers)]
    got = {}

    def work(seed):
        got[seed] = train(layers[seed], seed)

    run(*[lambda s=seed: work(s) for seed in range(8)])
    for seed in range(8):
        equal(got[seed], want[seed])
        assert_in_order(layers[seed])


@pytest.mark.parametrize("kind", KINDS)
def test_one_model_under_a_lock(kind):
    """Four threads take turns at one model: what comes out is what the same turns give in one."""
    layer = constrained_linear(KINDS[kind]())
    twin, turns, lock = copy.deepcopy(layer), [], threading.Lock()
    before = cp.statistics(layer)["weight"].evaluations

    def turn(model, seed):
        torch.set_default_dtype(torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.005)
        for _ in range(2):
            loss_of(model(torch.full((2, 4), 0.1 + 0.05 * seed))).backward()
        optimizer.step()
        optimizer.zero_grad()

    def work(seed):
        for k in range(5):
            with lock:
                turns.append(4 * k + seed)
                turn(layer, 4 * k + seed)
            time.sleep(0)

    run(*[lambda s=seed: work(s) for seed in range(4)])
    for seed in turns:
        turn(twin, seed)
    assert len(turns) == 20
    assert bool(torch.isfinite(twin.weight.detach()).all())
    equal(layer.weight, twin.weight)
    assert cp.statistics(layer)["weight"].evaluations <= before + 21
    assert_in_order(layer)


def assert_in_order(layer):
    """Nothing is left of the threads: a change is seen, and a copy agrees."""
    with torch.no_grad():
        layer._weight_unconstrained.add_(0.01)
    fresh = copy.deepcopy(layer)
    equal(layer.weight, fresh.weight)
    for each in (layer, fresh):
        each.zero_grad()
        loss_of(each.weight).backward()
    equal(layer._weight_unconstrained.grad, fresh._weight_unconstrained.grad)


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
