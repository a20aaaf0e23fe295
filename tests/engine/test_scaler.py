"""GradScaler: scaled gradients, skipped steps, and sums that a skipped step leaves pending."""

import copy

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import equal

FUNCTIONS = {"set": cp.Orthogonal, "callable": lambda: torch.tanh}


class Net(nn.Module):
    """A constrained layer and a plain one."""

    def __init__(self, function):
        super().__init__()
        self.first = nn.Linear(4, 4).float()
        self.last = nn.Linear(4, 1).float()
        cp.register_constrained_parameter(self.first, "weight", function)

    def forward(self, z):
        return self.last(torch.tanh(self.first(z)))


class Loop:
    """One model with its optimiser and scaler."""

    def __init__(self, net, scale=2.0**10):
        self.net = net
        self.optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=100)

    def backward(self, z, factor=1.0):
        with torch.autocast(torch.get_default_device().type, torch.bfloat16):
            out = self.net(z)
        self.scaler.scale(factor * out.float().square().sum()).backward()

    def step(self):
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad()


@pytest.fixture(params=FUNCTIONS)
def net(request):
    return Net(FUNCTIONS[request.param]())


def batch(seed):
    return torch.randn(
        3,
        4,
        dtype=torch.float32,
        generator=torch.Generator(torch.get_default_device()).manual_seed(seed),
    )


def evaluations(net):
    return cp.statistics(net)["first.weight"].evaluations


def compare(loop, other):
    for p, q in zip(loop.net.parameters(), other.net.parameters(), strict=True):
        equal(p, q, rtol=1e-5, atol=1e-6)


def test_a_skipped_step_changes_nothing(net):
    """An infinite gradient: x, y and the count stay, the scale halves, the next step is right."""
    loop, other = Loop(net), Loop(copy.deepcopy(net))
    loop.backward(batch(0))
    loop.step()
    other.backward(batch(0))
    other.step()
    y, x = net.first.weight, net.first._weight_unconstrained.detach().clone()
    count = evaluations(net)
    loop.backward(batch(1), factor=float("inf"))
    loop.step()
    assert loop.scaler.get_scale() == 2.0**9
    assert torch.equal(net.first._weight_unconstrained, x)
    assert net.first.weight is y and evaluations(net) == count
    for each in (loop, other):
        each.backward(batch(2))
        each.step()
    compare(loop, other)


def test_accumulated_with_deferral(net):
    """Micro-batches inside the block, the last one outside: the sum is scaled once and unscaled."""
    loop, other = Loop(net), Loop(copy.deepcopy(net))
    block = cp.deferred_pullback(net)
    for step in range(3):
        for i in range(3):
            other.backward(batch(3 * step + i))
            if i < 2:
                with block:
                    loop.backward(batch(3 * step + i))
            else:
                loop.backward(batch(3 * step + i))
        before = [p.grad.clone() for p in other.net.parameters()]
        for p, want in zip(loop.net.parameters(), before, strict=True):
            equal(p.grad, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
        loop.step()
        other.step()
    compare(loop, other)


def test_an_overflow_inside_the_block_skips_the_step_and_leaves_no_trace(net):
    loop, other = Loop(net), Loop(copy.deepcopy(net), scale=2.0**9)
    with cp.deferred_pullback(net):
        loop.backward(batch(0), factor=float("inf"))
    loop.backward(batch(1))
    assert not torch.isfinite(net.first._weight_unconstrained.grad).all()
    loop.step()
    for each in (loop, other):
        each.backward(batch(2))
        each.step()
    compare(loop, other)


def test_a_step_skipped_with_sums_pending(net):
    """The scaler skips without asking: the next block says so, and ``discard`` drops the sums."""
    loop, other = Loop(net), Loop(copy.deepcopy(net), scale=2.0**9)
    block = cp.deferred_pullback(net)
    with block:
        loop.backward(batch(0))
    loop.net.last.weight.grad.fill_(torch.inf)
    x = net.first._weight_unconstrained.detach().clone()
    loop.step()
    assert torch.equal(net.first._weight_unconstrained, x)
    with pytest.raises(cp.PendingGradients, match="discard"), cp.deferred_pullback(net):
        pass
    block.discard()
    with block:
        loop.backward(batch(1))
    loop.backward(batch(2))
    other.backward(batch(1))
    other.backward(batch(2))
    loop.step()
    other.step()
    compare(loop, other)


def test_a_step_that_is_not_skipped_refuses_pending_sums(net):
    loop = Loop(net)
    with cp.deferred_pullback(net):
        loop.backward(batch(0))
    with pytest.raises(cp.PendingGradients, match="discard"):
        loop.step()
