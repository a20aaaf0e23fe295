"""A read of an unchanged value asks only its key, also where a map has state."""

import pytest
import torch
from torch import nn

import constrainedparams as cp
from constrainedparams.core.slot import Slot

FUNCTIONS = {
    "callable": torch.tanh,
    "set": cp.NonNegative(),
    "set with state": cp.Orthogonal(),
    "set with state, cayley": cp.Orthogonal("cayley"),
}


def registered(function):
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", function)
    _ = layer.weight
    return layer


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_hit_does_not_leave_the_descriptor(function, monkeypatch):
    layer = registered(function)
    y, hits = layer.weight, cp.statistics(layer)["weight"].hits
    slow = []
    monkeypatch.setattr(Slot, "read", lambda *_: slow.append(1))
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
