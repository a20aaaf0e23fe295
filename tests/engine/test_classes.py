"""How a constrained tensor is attached: one class per base class, every module type, every copy."""

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import (
    assert_fresh,
    constrained_linear,
    equal,
    skew_exp,
    tanh_exp,
)


# The class ------------------------------------------------------------------------------------
def test_modules_of_one_class_share_the_generated_class():
    one, two = constrained_linear(), constrained_linear(tanh_exp, 7, bias=True)
    assert type(one) is type(two)
    assert isinstance(one, nn.Linear) and issubclass(type(one), nn.Linear)
    assert type(nn.Linear(2, 2)) is nn.Linear
    other = cp.register_constrained_parameter(nn.Linear(4, 4), "bias", torch.tanh)
    assert type(other) is not type(one)


def test_the_order_of_registration_does_not_make_another_class():
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    for layer, names in ((one, ("weight", "bias")), (two, ("bias", "weight"))):
        for name in names:
            cp.register_constrained_parameter(layer, name, torch.tanh)
    assert type(one) is type(two)


def test_an_unconstrained_sibling_is_untouched():
    layer, plain = constrained_linear(), nn.Linear(4, 4)
    assert not hasattr(plain, "_weight_unconstrained")
    assert plain.weight is dict(plain.named_parameters())["weight"]
    assert layer.in_features == 4


def test_super_and_methods_of_the_base_work():
    class Mine(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) + 1

        @property
        def rows(self):
            return self.weight.shape[0]

    layer = cp.register_constrained_parameter(Mine(4, 4), "weight", skew_exp)
    inputs = torch.rand(2, 4)
    equal(layer(inputs), inputs @ skew_exp(layer._weight_unconstrained).t() + layer.bias + 1)
    assert layer.rows == 4


def test_a_base_with_slots_like_attributes_and_getattr():
    class Forwarding(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.w = nn.Parameter(torch.rand(4, 4))

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.inner, name)

    module = cp.register_constrained_parameter(Forwarding(), "w", skew_exp)
    assert_fresh(module, skew_exp, "w")
    assert module.in_features == 4
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = module.nothing_like_it


def test_a_missing_attribute_is_still_an_attribute_error():
    layer = constrained_linear()
    with pytest.raises(AttributeError, match="wieght"):
        _ = layer.wieght
    assert not hasattr(layer, "wieght")
    assert hasattr(layer, "weight")


def test_repr_shows_the_set():
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", cp.Orthogonal())
    text = repr(nn.Sequential(layer))
    assert "Linear" in text and "in_features=4" in text
    assert "weight" in text and "Orthogonal" in text
    plain = repr(cp.register_constrained_parameter(nn.Linear(4, 4), "weight", skew_exp))
    assert "skew_exp" in plain


def test_named_parameters_and_state_dict():
    layer = constrained_linear(bias=True)
    assert [n for n, _ in layer.named_parameters()] == ["_weight_unconstrained", "bias"]
    assert list(layer.state_dict()) == ["_weight_unconstrained", "bias"]
    assert all(type(t) is torch.Tensor for t in layer.state_dict().values())
    assert "weight" in dir(layer)
