"""A read of an unchanged value asks only its key, also where a map has state."""

import pytest
import torch
from torch import nn

import constrainedparams as cp
from constrainedparams.core.slot import Slot


class Scale(nn.Module):
    """x times a learnt number, a buffer, and 2 in eval mode, through a submodule."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleList([nn.PReLU(init=0.5)])
        self.factor = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("shift", torch.tensor(0.25))

    def forward(self, x):
        y = self.inner[0](x) * self.factor + self.shift
        y = y + self.extra if hasattr(self, "extra") else y
        return y if self.training else 2 * y


FUNCTIONS = {
    "callable": torch.tanh,
    "set": cp.NonNegative(),
    "set with state": cp.Orthogonal(),
    "set with state, cayley": cp.Orthogonal("cayley"),
    "module": Scale,
}


def registered(function, update="auto"):
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", function, update)
    _ = layer.weight
    return layer


@pytest.mark.parametrize("update", ["auto", "manual"])
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_hit_does_not_leave_the_descriptor(function, update, monkeypatch):
    layer = registered(Scale() if function is Scale else function, update)
    y, hits = layer.weight, cp.statistics(layer)["weight"].hits
    slow = []
    monkeypatch.setattr(Slot, "read", lambda *_: slow.append(1))
    if update == "manual":  # x has changed, and nobody has told
        layer._weight_unconstrained.detach().mul_(2)
    assert all(layer.weight is y for _ in range(5))
    assert slow == []
    assert cp.statistics(layer)["weight"].hits == hits + 5


@pytest.mark.parametrize("how", ["in place", "another tensor"])
def test_a_change_of_map_state_is_noticed_at_a_hit(how):
    layer = registered(cp.Orthogonal())
    base = cp.Orthogonal().sample((4, 4), dtype=torch.float64)
    if how == "in place":
        layer._weight_base.copy_(base)
    else:
        layer._weight_base = base
    torch.testing.assert_close(layer.weight.detach().clone(), base)


def _replace_parameter(f):
    f.factor = nn.Parameter(torch.tensor(3.0))


def _replace_nested(f):
    f.inner[0] = nn.PReLU(init=-1.0)


CHANGES = {
    "parameter in place": lambda f: f.factor.data.fill_(3.0),
    "parameter replaced": _replace_parameter,
    "nested parameter in place": lambda f: f.inner[0].weight.data.fill_(2.0),
    "submodule replaced": _replace_nested,
    "submodule inserted": lambda f: f.inner.insert(0, nn.PReLU(init=-2.0)),
    "buffer in place": lambda f: f.shift.fill_(2.0),
    "buffer replaced": lambda f: setattr(f, "shift", torch.tensor(2.0)),
    "parameter added": lambda f: f.register_parameter("extra", nn.Parameter(torch.ones(1))),
    "buffer added": lambda f: f.register_buffer("extra", torch.ones(1)),
    "eval": lambda f: f.eval(),
    "parameter frozen": lambda f: f.factor.requires_grad_(False),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_inside_f_is_noticed_at_a_hit(change):
    f = Scale()
    layer = registered(f)
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    change(f)
    y, naive = layer.weight, f(x)
    torch.testing.assert_close(y.detach().clone(), naive.detach())
    layer.zero_grad()
    y.sum().backward()
    (expected,) = torch.autograd.grad(naive.sum(), x)
    torch.testing.assert_close(layer._weight_unconstrained.grad, expected)
    assert (f.factor.grad is not None) is f.factor.requires_grad


def test_another_f_in_its_place_is_noticed_at_a_hit():
    layer = registered(Scale())
    other = Scale().eval()
    layer._weight_function = other
    torch.testing.assert_close(layer.weight.detach(), other(layer._weight_unconstrained).detach())
