"""Two models and two optimisers: the step of one recomputes nothing of the other."""

import pytest
import torch
from torch import nn, optim
from torch.testing import assert_close

import constrainedparams as cp

from .event import X

STEPS, CRITIC = 3, 2


class Counted:
    """f that counts its own evaluations."""

    def __init__(self):
        self.count = 0

    def __call__(self, x):
        self.count += 1
        return torch.tanh(x) + 0.1 * torch.exp(x)


def sgd(parameters):
    return optim.SGD(parameters, lr=0.1, momentum=0.5, foreach=True)


def adam(parameters):
    return optim.Adam(parameters, lr=0.02, betas=(0.5, 0.9))


def fused(parameters):
    return optim.Adam(parameters, lr=0.02, fused=True)


def rmsprop(parameters):
    return optim.RMSprop(parameters, lr=0.01)


@torch.no_grad()
def clip_in_place(parameters):
    for parameter in parameters:
        parameter.clamp_(-0.3, 0.3)


def clip_data(parameters):
    for parameter in parameters:
        parameter.data.clamp_(-0.3, 0.3)


def nothing(parameters):
    pass


# name: (optimiser of the generator, of the critic, what happens to the critic after its step)
ROWS = {
    "alternating": (sgd, adam, nothing),
    "both fused": (fused, fused, nothing),
    "fused critic only": (sgd, fused, nothing),
    "WGAN, .data.clamp_": (rmsprop, rmsprop, clip_data),
    "WGAN, clamp_ under no_grad": (rmsprop, rmsprop, clip_in_place),
    "WGAN, .data.clamp_, both fused": (fused, fused, clip_data),
}


def play(generator, critic, g_weight, d_weight, row, seen):
    """Alternating steps; ``seen(who)`` is called after each."""
    make_g, make_d, clip = ROWS[row]
    of_g, of_d = make_g([generator]), make_d([critic])
    batches = torch.rand(
        STEPS,
        CRITIC + 1,
        2,
        4,
        generator=torch.Generator(torch.get_default_device()).manual_seed(3),
    )
    for batch in batches:
        for noise in batch[:-1]:
            of_d.zero_grad()
            fake = (noise @ g_weight().t()).detach()
            (fake @ d_weight().t() - noise @ d_weight().t()).sin().mean().backward()
            of_d.step()
            clip([critic])
            seen("critic")
        of_g.zero_grad()
        (batch[-1] @ g_weight().t() @ d_weight().t()).sin().mean().backward()
        of_g.step()
        seen("generator")


@pytest.mark.parametrize("row", ROWS)
def test_each_step_recomputes_its_own_model_alone(row):
    functions = Counted(), Counted()
    layers = [
        cp.register_constrained_parameter(nn.Linear(4, 4, bias=False), "weight", f)
        for f in functions
    ]
    starts = [getattr(layer, X).detach().clone() for layer in layers]
    ran = {"generator": [], "critic": []}

    def count(who):
        before = [f.count for f in functions]
        _ = [layer.weight for layer in layers]
        after = [f.count for f in functions]
        ran[who].append([b - a for a, b in zip(before, after, strict=True)])

    _ = [layer.weight for layer in layers]
    inside = [f.count for f in functions]
    g, d = layers
    play(getattr(g, X), getattr(d, X), lambda: g.weight, lambda: d.weight, row, count)
    assert ran["critic"] == [[0, 1]] * (STEPS * CRITIC)
    assert ran["generator"] == [[1, 0]] * STEPS
    # all evaluations are those after the steps
    assert functions[0].count - inside[0] == STEPS
    assert functions[1].count - inside[1] == STEPS * CRITIC

    x_g, x_d = (nn.Parameter(start) for start in starts)
    f = Counted()
    play(x_g, x_d, lambda: f(x_g), lambda: f(x_d), row, lambda who: None)
    assert_close(getattr(g, X).detach(), x_g.detach(), rtol=1e-12, atol=1e-12)
    assert_close(getattr(d, X).detach(), x_d.detach(), rtol=1e-12, atol=1e-12)


def test_a_critic_frozen_for_the_step_of_the_generator():
    """``requires_grad_(False)`` for a while: the price is one evaluation each way, of the critic."""
    functions = Counted(), Counted()
    g, d = (
        cp.register_constrained_parameter(nn.Linear(4, 4, bias=False), "weight", f)
        for f in functions
    )
    of_g = optim.SGD(g.parameters(), lr=0.1)
    for _ in range(3):
        _ = g.weight, d.weight
        before = [f.count for f in functions]
        d.requires_grad_(False)
        of_g.zero_grad()
        d(g(torch.rand(2, 4))).sin().sum().backward()
        assert getattr(d, X).grad is None
        d.requires_grad_(True)
        _ = g.weight, d.weight
        assert [f.count for f in functions] == [before[0], before[1] + 2]
        of_g.step()
        _ = g.weight, d.weight
        assert [f.count for f in functions] == [before[0] + 1, before[1] + 2]
