"""temporarily: y is another value for a while, x and its gradient stay out of it."""

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import (
    assert_fresh,
    change,
    constrained_linear,
    counted_linear,
    equal,
    loss_of,
    naive,
    skew_exp,
    tanh_exp,
)


def test_value_inside_and_restored_after():
    layer, inputs = constrained_linear(), torch.rand(2, 4)
    y, x = layer.weight, layer._weight_unconstrained.detach().clone()
    with cp.temporarily(layer, "weight", torch.eye(4)):
        equal(layer.weight, torch.eye(4))
        equal(layer(inputs), inputs)
        equal(layer._weight_unconstrained, x)
    assert layer.weight is y
    equal(layer._weight_unconstrained, x)
    assert_fresh(layer, skew_exp)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_a_value_of_another_dtype_is_cast_as_in_an_assignment(dtype):
    layer, inputs = constrained_linear(), torch.rand(2, 4)
    with cp.temporarily(layer, "weight", torch.eye(4, dtype=dtype)) as value:
        equal(layer(inputs), inputs)
        assert layer.weight is value


def test_no_gradient_to_x():
    layer = constrained_linear(bias=True)
    inputs = torch.rand(2, 4, requires_grad=True)
    with cp.temporarily(layer, "weight", 2 * torch.eye(4)):
        layer(inputs).square().sum().backward()
    assert layer._weight_unconstrained.grad is None
    assert layer.bias.grad.norm() > 0
    equal(inputs.grad, 4 * (2 * inputs + layer.bias))


def test_f_is_not_evaluated():
    layer, counting = counted_linear()
    with cp.temporarily(layer, "weight", torch.eye(4)):
        layer(torch.rand(2, 4))
    assert counting.evaluations == 0
    _ = layer.weight
    with cp.temporarily(layer, "weight", torch.eye(4)):
        layer(torch.rand(2, 4))
    _ = layer.weight
    assert counting.evaluations == 1


def test_restored_after_an_exception():
    layer = constrained_linear()
    with pytest.raises(ZeroDivisionError), cp.temporarily(layer, "weight", torch.eye(4)):
        raise ZeroDivisionError
    assert_fresh(layer, skew_exp)


def test_nested():
    layer = constrained_linear()
    with cp.temporarily(layer, "weight", torch.eye(4)):
        with cp.temporarily(layer, "weight", 2 * torch.eye(4)):
            equal(layer.weight, 2 * torch.eye(4))
        equal(layer.weight, torch.eye(4))
    assert_fresh(layer, skew_exp)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_in_every_grad_mode(mode):
    layer = constrained_linear()
    with mode(), cp.temporarily(layer, "weight", torch.eye(4)):
        equal(layer.weight.clone(), torch.eye(4))
    assert_fresh(layer, skew_exp)


def test_x_may_change_inside():
    layer = constrained_linear()
    with cp.temporarily(layer, "weight", torch.eye(4)):
        change(layer._weight_unconstrained)
        equal(layer.weight, torch.eye(4))
    assert_fresh(layer, skew_exp)


def test_a_loss_from_before_can_be_differentiated_inside():
    layer = constrained_linear()
    loss = loss_of(layer.weight)
    with cp.temporarily(layer, "weight", torch.eye(4)):
        loss.backward()
    equal(layer._weight_unconstrained.grad, naive(skew_exp, layer._weight_unconstrained)[1])


def test_inside_a_training_loop():
    """Evaluation at an averaged weight between two steps changes nothing of the training."""
    layer, twin = constrained_linear(), constrained_linear()
    twin.load_state_dict(layer.state_dict())
    average = torch.zeros(4, 4)
    for seed in range(3):
        for model in (layer, twin):
            torch.manual_seed(seed)
            model(torch.rand(2, 4)).square().sum().backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()
            model.zero_grad()
        average = average + layer.weight.detach() / 3
        with torch.no_grad(), cp.temporarily(layer, "weight", average):
            layer(torch.rand(2, 4))
    equal(layer.weight, twin.weight)


def test_only_this_module():
    layer, other = constrained_linear(), constrained_linear(tanh_exp)
    with cp.temporarily(layer, "weight", torch.eye(4)):
        assert_fresh(other, tanh_exp)


def test_state_dict_inside_is_that_of_x():
    layer = constrained_linear()
    want = layer.state_dict()["_weight_unconstrained"].clone()
    with cp.temporarily(layer, "weight", torch.eye(4)):
        state = layer.state_dict()
    assert list(state) == ["_weight_unconstrained"]
    equal(state["_weight_unconstrained"], want)


@pytest.mark.parametrize("shape", [(3, 3), (4,), ()])
def test_wrong_shape(shape):
    layer = constrained_linear()
    with (
        pytest.raises(cp.ShapeError, match="weight"),
        cp.temporarily(layer, "weight", torch.zeros(shape)),
    ):
        pass
    assert_fresh(layer, skew_exp)


def test_of_a_parameter_of_a_submodule_by_its_module():
    model = nn.Sequential(constrained_linear(), nn.Tanh())
    inputs = torch.rand(2, 4)
    with cp.temporarily(model[0], "weight", torch.eye(4)):
        equal(model(inputs), torch.tanh(inputs))
    assert_fresh(model[0], skew_exp)
