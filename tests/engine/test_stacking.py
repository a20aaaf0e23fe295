"""torch's own parametrize (and its relatives) on the same module."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import constrainedparams as cp

from .oracle import assert_fresh, change, constrained_linear, equal, loss_of, skew_exp, tanh_exp


class Shift(nn.Module):
    def forward(self, x):
        return x + 1

    def right_inverse(self, y):
        return y - 1


def check(layer):
    """weight is ours, bias is torch's: values and both gradients."""
    assert_fresh(layer, skew_exp)
    inputs = torch.rand(2, 4)
    original = layer.parametrizations.bias.original
    equal(layer(inputs), inputs @ skew_exp(layer._weight_unconstrained).t() + original + 1)
    layer(inputs).square().sum().backward()
    assert original.grad.norm() > 0 and layer._weight_unconstrained.grad.norm() > 0
    layer.zero_grad()


@pytest.mark.parametrize("first", ["ours", "torch"])
def test_on_two_tensors_of_one_module(first):
    layer = nn.Linear(4, 4)
    if first == "ours":
        cp.register_constrained_parameter(layer, "weight", skew_exp)
        parametrize.register_parametrization(layer, "bias", Shift())
    else:
        parametrize.register_parametrization(layer, "bias", Shift())
        cp.register_constrained_parameter(layer, "weight", skew_exp)
    check(layer)
    change(layer._weight_unconstrained)
    check(layer)
    torch.optim.SGD(layer.parameters(), lr=0.1, fused=True).step()
    check(layer)


@pytest.mark.parametrize("first", ["ours", "torch"])
def test_unstacking_in_reverse_order(first):
    layer = nn.Linear(4, 4)
    if first == "ours":
        cp.register_constrained_parameter(layer, "weight", skew_exp)
        parametrize.register_parametrization(layer, "bias", Shift())
        parametrize.remove_parametrizations(layer, "bias")
        assert_fresh(layer, skew_exp)
        cp.remove_constrained_parameter(layer, "weight")
    else:
        parametrize.register_parametrization(layer, "bias", Shift())
        cp.register_constrained_parameter(layer, "weight", skew_exp)
        cp.remove_constrained_parameter(layer, "weight")
        assert parametrize.is_parametrized(layer, "bias")
        parametrize.remove_parametrizations(layer, "bias")
    assert type(layer) is nn.Linear
    assert {n for n, _ in layer.named_parameters()} == {"weight", "bias"}
    layer(torch.rand(2, 4)).sum().backward()


def test_torch_on_a_tensor_that_is_ours_is_refused_loudly():
    layer = constrained_linear()
    with pytest.raises((ValueError, cp.ConstraintError)):
        parametrize.register_parametrization(layer, "weight", Shift())
    assert_fresh(layer, skew_exp)


def test_ours_on_a_tensor_that_is_torchs_is_refused():
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", Shift())
    want = layer.weight.detach().clone()
    with pytest.raises(cp.RegistrationError, match="weight"):
        cp.register_constrained_parameter(layer, "weight", skew_exp)
    equal(layer.weight, want)


def test_torchs_own_constraints_beside_ours():
    layer = nn.Linear(4, 4)
    parametrizations.orthogonal(layer, "weight")
    cp.register_constrained_parameter(layer, "bias", tanh_exp)
    loss_of(layer(torch.eye(4))).backward()
    assert_fresh(layer, tanh_exp, "bias")
    equal(layer.weight @ layer.weight.t(), torch.eye(4), rtol=0, atol=1e-12)


def test_cached_block_of_torch():
    layer = nn.Linear(4, 4)
    cp.register_constrained_parameter(layer, "weight", skew_exp)
    parametrize.register_parametrization(layer, "bias", Shift())
    with parametrize.cached():
        check_twice = [layer(torch.eye(4)) for _ in range(2)]
        change(layer._weight_unconstrained)
        assert_fresh(layer, skew_exp)
    equal(check_twice[0], check_twice[1])
    check(layer)


def test_pruning_a_constrained_name_is_loud():
    layer = constrained_linear()
    with pytest.raises((TypeError, cp.ConstraintError, AttributeError, KeyError)):
        prune.l1_unstructured(layer, "weight", 0.5)
    assert_fresh(layer, skew_exp)


def test_torch_on_our_x():
    layer = constrained_linear(tanh_exp)
    parametrize.register_parametrization(layer, "_weight_unconstrained", Shift())
    original = layer.parametrizations._weight_unconstrained.original
    for _ in range(2):
        x = original.detach().clone().requires_grad_()
        loss_of(tanh_exp(x + 1)).backward()
        loss_of(layer.weight).backward()
        equal(layer.weight, tanh_exp(x + 1))
        equal(original.grad, x.grad)
        layer.zero_grad()
        change(original)
    parametrize.remove_parametrizations(layer, "_weight_unconstrained")
    assert_fresh(layer, tanh_exp)
