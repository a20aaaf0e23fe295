"""parameter_groups: every parameter once, no decay on x unless asked for."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import constrainedparams as cp

from .models import WORDS, Net, Packed, Softened, constrained_net, tanh

CONSTRAINED = [
    "_scale_unconstrained",
    "embed._weight_unconstrained",
    "encoder.0.inner._weight_unconstrained",
    "encoder.1.inner._weight_unconstrained",
    "head._bias_unconstrained",
]


def names(group):
    return [name for name, _ in group["params"]]


def test_two_groups_with_their_options():
    model = constrained_net()
    first, second = cp.parameter_groups(model, {"lr": 1e-4}, lr=1e-2, weight_decay=0.1)
    assert sorted(names(first)) == sorted(CONSTRAINED)
    assert {k: v for k, v in first.items() if k != "params"} == {"lr": 1e-4, "weight_decay": 0.0}
    assert {k: v for k, v in second.items() if k != "params"} == {"lr": 1e-2, "weight_decay": 0.1}
    both = dict(first["params"] + second["params"])
    assert both.keys() == dict(model.named_parameters()).keys()
    assert all(both[name] is p for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("given", "decay"), [(None, 0.0), ({}, 0.0), ({"lr": 1.0}, 0.0), ({"weight_decay": 0.3}, 0.3)]
)
def test_decay_is_off_unless_asked_for(given, decay):
    first, second = cp.parameter_groups(constrained_net(), given, weight_decay=0.1)
    assert (first["weight_decay"], second["weight_decay"]) == (decay, 0.1)


def test_groups_without_parameters_are_left_out():
    assert [names(g) for g in cp.parameter_groups(nn.Linear(2, 2))] == [["weight", "bias"]]
    w = cp.Parametrized(torch.zeros(2), tanh)
    assert [names(g) for g in cp.parameter_groups(w)] == [["_y_unconstrained"]]
    assert cp.parameter_groups(nn.Tanh()) == []


def test_shared_parameters_and_shared_modules_are_there_once():
    model = constrained_net()
    model.again = model.encoder
    model.tail = nn.Linear(4, 6, bias=False)
    cp.share_constrained_parameter(model.embed, "weight", model.tail)
    model.last = nn.Linear(4, 3)
    model.last.bias = model.encoder[0].norm.bias = nn.Parameter(torch.zeros(3))
    groups = cp.parameter_groups(model, {"lr": 0.1})
    held = [id(p) for group in groups for _, p in group["params"]]
    assert len(held) == len(set(held)) == len(list(model.parameters()))
    assert id(model.tail._weight_unconstrained) in [id(p) for _, p in groups[0]["params"]]
    torch.optim.SGD(groups)  # refuses a parameter that appears twice


def test_x_that_is_an_ordinary_parameter_elsewhere_counts_as_constrained():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].weight = model[1].weight
    cp.register_constrained_parameter(model[1], "weight", cp.Orthogonal())
    first, second = cp.parameter_groups(model)
    assert names(first) == ["0.weight"] and names(second) == ["0.bias", "1.bias"]


def test_parameters_of_f_and_frozen_ones_belong_to_a_group():
    model = nn.Sequential(nn.Linear(3, 3))
    cp.register_constrained_parameter(model[0], "weight", Softened())
    model.requires_grad_(False)
    first, second = cp.parameter_groups(model)
    assert names(first) == ["0._weight_unconstrained"]
    assert sorted(names(second)) == ["0._weight_function.sharpness", "0.bias"]


def test_x_of_another_shape():
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3))
    cp.register_constrained_parameter(layer, "weight", Packed(3))
    (group, _) = cp.parameter_groups(layer)
    assert [tuple(p.shape) for _, p in group["params"]] == [(6,)]


OPTIMIZERS = {
    "SGD": lambda g: torch.optim.SGD(g, lr=0.1),
    "Adam": lambda g: torch.optim.Adam(g, lr=0.1),
    "AdamW": lambda g: torch.optim.AdamW(g, lr=0.1),
    "RMSprop": lambda g: torch.optim.RMSprop(g, lr=0.1),
    "Rprop": lambda g: torch.optim.Rprop(g, lr=0.1),  # has no weight_decay
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimisers_take_them_and_keep_the_names(make):
    model = constrained_net()
    optimizer = make(cp.parameter_groups(model, {"lr": 0.01}))
    assert sorted(optimizer.param_groups[0]["param_names"]) == sorted(CONSTRAINED)
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(WORDS).square().sum().backward()
    optimizer.step()
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, old[name])]
    assert set(CONSTRAINED) <= set(moved)
    saved = optimizer.state_dict()
    again = make(cp.parameter_groups(model, {"lr": 0.01}))
    again.load_state_dict(saved)
    assert again.state_dict()["param_groups"] == saved["param_groups"]


def test_where_decay_pulls():
    """Without a gradient: AdamW decays w to w (1 - lr d)^t and y to f(0); by default y stays."""
    start = torch.full((3,), 2.0)

    def trained(constrained):
        layer = nn.Linear(3, 3)
        layer.scale = nn.Parameter(start.clone())
        cp.register_constrained_parameter(layer, "scale", cp.Positive())
        groups = cp.parameter_groups(layer, constrained, weight_decay=0.5)
        optimizer = torch.optim.AdamW(groups, lr=0.1)
        weight = layer.weight.detach().clone()
        for _ in range(300):
            for p in layer.parameters():
                p.grad = torch.zeros_like(p)
            optimizer.step()
        assert_close(layer.weight.detach(), weight * (1 - 0.1 * 0.5) ** 300)
        return layer.scale.detach()

    assert_close(trained(None), start)
    # Positive is softplus: f(0) = ln 2, which is also what summary calls the decay target
    assert_close(trained({"weight_decay": 0.5}), torch.full((3,), math.log(2.0)), rtol=0, atol=1e-6)
    assert "ln(2)" in cp.Positive().decay_target.replace("ln 2", "ln(2)")


def test_layer_wise_rates():
    model = constrained_net()
    blocks = [model.head, *reversed(model.encoder), model.embed]
    groups = []
    for depth, block in enumerate(blocks):
        rate = 0.1 * 0.5**depth
        groups += cp.parameter_groups(block, {"lr": rate / 10}, lr=rate)
    groups += [{"params": [("scale", model._scale_unconstrained)]}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    rates = {name: g["lr"] for g in optimizer.param_groups for name in g["param_names"]}
    assert rates["scale"] == 1.0
    assert len([p for g in optimizer.param_groups for p in g["params"]]) == 12
    old = model.encoder[0].inner._weight_unconstrained.detach().clone()
    model(WORDS).square().sum().backward()
    grad = model.encoder[0].inner._weight_unconstrained.grad.clone()
    optimizer.step()
    x = model.encoder[0].inner._weight_unconstrained.detach()
    assert_close(x, old - 0.1 * 0.5**2 / 10 * grad)


@pytest.mark.parametrize(
    "options", [{"constrained": 0.0}, {"constrained": {"params": []}}, {"params": []}]
)
def test_wrong_options(options):
    with pytest.raises(cp.RegistrationError, match="expected a dict"):
        cp.parameter_groups(Net(), **options)
