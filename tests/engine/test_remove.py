"""remove_constrained_parameter: a plain parameter again, and the class as it was."""

import copy

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import (
    PackedSymmetric,
    Softened,
    Symmetric,
    assert_fresh,
    assert_untouched,
    change,
    constrained_linear,
    counted_linear,
    equal,
    fingerprint,
    skew_exp,
    tanh_exp,
)


@pytest.mark.parametrize("keep", ["constrained", "unconstrained"])
def test_value_and_class(keep):
    layer = constrained_linear(bias=True)
    change(layer._weight_unconstrained)
    x = layer._weight_unconstrained.detach().clone()
    cp.remove_constrained_parameter(layer, "weight", keep=keep)
    equal(layer.weight, skew_exp(x) if keep == "constrained" else x)
    assert type(layer) is nn.Linear
    assert type(layer.weight) is nn.Parameter and layer.weight.is_leaf
    assert layer.weight.requires_grad
    assert not cp.is_constrained(layer)
    assert not hasattr(layer, "_weight_unconstrained") and not hasattr(layer, "_weight_cache")


def test_the_default_keeps_y():
    layer = constrained_linear()
    want = layer.weight.detach().clone()
    cp.remove_constrained_parameter(layer, "weight")
    equal(layer.weight, want)


@pytest.mark.parametrize("f", [skew_exp, Softened, cp.__dict__.get("Orthogonal")],
                         ids=["callable", "module", "set"])  # fmt: skip
def test_nothing_is_left(f):
    plain = nn.Linear(4, 4)
    layer = copy.deepcopy(plain)
    cp.register_constrained_parameter(layer, "weight", f() if isinstance(f, type) else f)
    layer(torch.rand(2, 4)).sum().backward()
    cp.remove_constrained_parameter(layer, "weight")
    assert list(layer.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in layer.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert list(layer._modules) == list(plain._modules)
    assert list(layer._buffers) == list(plain._buffers)
    assert set(vars(layer)) == set(vars(plain))
    assert type(layer) is type(plain)
    plain.load_state_dict(layer.state_dict())
    inputs = torch.rand(2, 4)
    equal(layer(inputs), plain(inputs))


def test_the_result_trains_as_a_plain_layer():
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", skew_exp)
    cp.remove_constrained_parameter(layer, "weight")
    plain = nn.Linear(4, 4)
    plain.load_state_dict(layer.state_dict())
    inputs = torch.rand(2, 4)
    for model in (layer, plain):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
    equal(layer.weight, plain.weight)


def test_frozen_stays_frozen():
    layer = constrained_linear()
    layer.requires_grad_(False)
    cp.remove_constrained_parameter(layer, "weight")
    assert not layer.weight.requires_grad


@pytest.mark.parametrize("keep", ["constrained", "unconstrained"])
def test_another_shape_of_x(keep):
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
    cp.register_constrained_parameter(layer, "weight", PackedSymmetric(4))
    cp.remove_constrained_parameter(layer, "weight", keep=keep)
    assert layer.weight.shape == ((4, 4) if keep == "constrained" else (10,))


def test_order_of_parameters():
    """Registering keeps the order of parameters, removing restores it."""
    layer = nn.Linear(4, 4)
    cp.register_constrained_parameter(layer, "weight", skew_exp)
    assert [n for n, _ in layer.named_parameters()] == ["_weight_unconstrained", "bias"]
    cp.register_constrained_parameter(layer, "bias", torch.tanh)
    assert [n for n, _ in layer.named_parameters()] == [
        "_weight_unconstrained",
        "_bias_unconstrained",
    ]
    cp.remove_constrained_parameter(layer, "weight")
    assert [n for n, _ in layer.named_parameters()] == ["weight", "_bias_unconstrained"]
    cp.remove_constrained_parameter(layer, "bias")
    assert [n for n, _ in layer.named_parameters()] == ["weight", "bias"]


@pytest.mark.parametrize("order", [("weight", "bias"), ("bias", "weight")])
def test_two_constraints_of_one_module(order):
    layer = nn.Linear(4, 4)
    cp.register_constrained_parameter(layer, "weight", skew_exp)
    cp.register_constrained_parameter(layer, "bias", tanh_exp)
    values = {n: getattr(layer, n).detach().clone() for n in order}
    cp.remove_constrained_parameter(layer, order[0])
    assert type(layer) is not nn.Linear and isinstance(layer, nn.Linear)
    assert cp.is_constrained(layer, order[1]) and not cp.is_constrained(layer, order[0])
    assert_fresh(layer, {"weight": skew_exp, "bias": tanh_exp}[order[1]], order[1])
    cp.remove_constrained_parameter(layer, order[1])
    assert type(layer) is nn.Linear
    for name, value in values.items():
        equal(getattr(layer, name), value)


def test_register_again():
    layer = constrained_linear()
    for f in (tanh_exp, skew_exp, Symmetric()):
        cp.remove_constrained_parameter(layer, "weight", keep="unconstrained")
        cp.register_constrained_parameter(layer, "weight", tanh_exp)
        cp.remove_constrained_parameter(layer, "weight", keep="unconstrained")
        if isinstance(f, Symmetric):
            layer.weight.data.copy_(f(layer.weight.data))
        cp.register_constrained_parameter(layer, "weight", f)
        assert_fresh(layer, f)


def test_a_copy_keeps_its_constraint():
    layer = constrained_linear()
    twin = copy.deepcopy(layer)
    cp.remove_constrained_parameter(layer, "weight")
    assert_fresh(twin, skew_exp)
    assert cp.is_constrained(twin, "weight")


def test_another_module_of_the_class_keeps_its_constraint():
    one, two = constrained_linear(), constrained_linear()
    cp.remove_constrained_parameter(one, "weight")
    assert_fresh(two, skew_exp)
    assert type(nn.Linear(2, 2)) is nn.Linear


def test_a_user_class_is_restored():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.rand(3, 3))
            cp.register_constrained_parameter(self, "w", skew_exp)

    module = Mine()
    assert isinstance(module, Mine)
    cp.remove_constrained_parameter(module, "w")
    assert type(module) is Mine


def test_statistics_forget_it():
    layer, _ = counted_linear()
    model = nn.Sequential(layer)
    assert "0.weight" in cp.statistics(model)
    cp.remove_constrained_parameter(layer, "weight")
    assert "0.weight" not in cp.statistics(model)


@pytest.mark.parametrize("keep", ["constraint", "", None])
def test_wrong_keep(keep):
    layer = constrained_linear()
    before = fingerprint(layer)
    with pytest.raises(cp.RegistrationError, match="unconstrained"):
        cp.remove_constrained_parameter(layer, "weight", keep=keep)
    assert_untouched(layer, before)


def test_with_a_pending_write_to_y():
    """Nothing is lost silently: the written value is kept, or refused."""
    layer = constrained_linear(Symmetric())
    target = Symmetric()(torch.rand(4, 4))
    with torch.no_grad():
        layer.weight.copy_(target)
    cp.remove_constrained_parameter(layer, "weight")
    equal(layer.weight, target)
