"""A warm cache never shows an old value: writes to x and operations on modules, one row each.

Each row is an event that changes x (or may look as if it did). Afterwards value and gradient are
those of f evaluated inline on the x that is there. Optimisers and transforms have files of their own.
"""

import copy

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import (
    assert_fresh,
    change,
    constrained_linear,
    equal,
    loss_of,
    naive,
    skew_exp,
    tanh_exp,
    warm,
)

F32 = {"rtol": 1e-5, "atol": 1e-6}


def new():
    return torch.rand(4, 4) - 0.5


def no_grad(write):
    """An event from a write to x under no_grad."""

    def event(layer):
        with torch.no_grad():
            write(layer._weight_unconstrained)

    return event


def inference(write):
    def event(layer):
        with torch.inference_mode():
            write(layer._weight_unconstrained)

    return event


def on_x(write):
    def event(layer):
        write(layer._weight_unconstrained)

    return event


def set_item(x):
    x[0] = 0.3


def add_out(x):
    torch.add(x.detach(), 0.1 * new(), out=x)


def data_item(x):
    x.data[0] = 0.3


def data_add(x):
    x.data += 0.1 * new()


def set_data(x):
    x.data = new()


def set_data_to_shifted(x):
    x.data = x.data + 0.1 * new()


def data_views(x):
    x.data.view(-1)[1:3].mul_(3.0)


def data_foreach(x):
    torch._foreach_mul_([x.data], 1.5)


@torch.library.custom_op("cp_tests::halve_", mutates_args={"x"})
def halve_(x: torch.Tensor) -> None:
    x.mul_(0.5)


def share_then_write(x):
    x.share_memory_()
    with torch.no_grad():
        x.add_(0.1)


def freeze(x):
    x.requires_grad_(False)


def freeze_by_attribute(x):
    x.requires_grad = False


def thaw(x):
    x.requires_grad_(False)
    x.requires_grad_(True)


WRITES = {
    "copy_": no_grad(lambda x: x.copy_(new())),
    "add_": no_grad(lambda x: x.add_(0.1 * new())),
    "setitem": no_grad(set_item),
    "detach_add": on_x(lambda x: x.detach().add_(0.1 * new())),
    "detach_view": on_x(lambda x: x.detach().view(-1)[1:5].mul_(3.0)),
    "out": no_grad(add_out),
    "foreach": no_grad(lambda x: torch._foreach_add_([x], 0.1)),
    "init_orthogonal": on_x(nn.init.orthogonal_),
    "init_eye": on_x(nn.init.eye_),
    "inference_add": inference(lambda x: x.add_(0.1 * new())),
    "inference_copy": inference(lambda x: x.copy_(new())),
    "data_assign": on_x(set_data),
    "data_assign_shifted": on_x(set_data_to_shifted),
    "data_iadd": on_x(data_add),
    "data_add": on_x(lambda x: x.data.add_(0.1 * new())),
    "data_copy": on_x(lambda x: x.data.copy_(new())),
    "data_clamp": on_x(lambda x: x.data.clamp_(-0.1, 0.1)),
    "data_setitem": on_x(data_item),
    "data_view": on_x(data_views),
    "data_foreach": on_x(data_foreach),
    "data_init": on_x(lambda x: nn.init.orthogonal_(x.data)),
    "set_": no_grad(lambda x: x.set_(new())),
    "custom_op": no_grad(halve_),
    "increment_version": on_x(torch.autograd.graph.increment_version),
    "share_memory": on_x(share_then_write),
    "freeze": on_x(freeze),
    "freeze_attribute": on_x(freeze_by_attribute),
    "thaw": on_x(thaw),
}


@pytest.mark.parametrize("f", [skew_exp, tanh_exp])
@pytest.mark.parametrize("event", WRITES.values(), ids=WRITES)
def test_write_to_x(event, f):
    layer = constrained_linear(f)
    warm(layer)
    event(layer)
    assert_fresh(layer, f)


@pytest.mark.parametrize("event", WRITES.values(), ids=WRITES)
def test_the_next_write_after_a_write(event):
    """No event leaves the layer blind for the next one."""
    layer = constrained_linear(tanh_exp)
    warm(layer)
    event(layer)
    warm(layer)
    change(layer._weight_unconstrained)
    assert_fresh(layer, tanh_exp)
    layer._weight_unconstrained.data.mul_(0.5)
    assert_fresh(layer, tanh_exp)


def test_frozen_and_thawed_gradients():
    layer = constrained_linear()
    assert layer.weight.requires_grad
    layer.requires_grad_(False)
    assert not layer.weight.requires_grad
    layer.requires_grad_(True)
    loss_of(layer.weight).backward()
    equal(layer._weight_unconstrained.grad, naive(skew_exp, layer._weight_unconstrained)[1])


def test_x_made_in_inference_mode():
    """Such a tensor has no version counter."""
    with torch.inference_mode():
        layer = constrained_linear(tanh_exp)
        for _ in range(2):
            equal(layer.weight.clone(), tanh_exp(layer._weight_unconstrained))
            layer._weight_unconstrained.add_(0.1)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x):
        return self.scale * x.tanh()


FUNCTIONS = [cp.Orthogonal, cp.Invertible, Scaled, nn.Tanh]  # with and without map state


@pytest.mark.parametrize("make", FUNCTIONS)
@pytest.mark.parametrize("way", ["made", "copied"])
def test_all_tensors_made_in_inference_mode(make, way):
    """Map state and buffers of f have no version counter there either."""
    layer, function = nn.Linear(3, 3), make()
    with torch.inference_mode():
        layer = copy.deepcopy(layer) if way == "made" else layer
        cp.register_constrained_parameter(layer, "weight", function)
        layer = copy.deepcopy(layer) if way == "copied" else layer
        function = cp.constraint_of(layer, "weight")
        for _ in range(2):
            state = {
                key: layer._buffers[f"_weight_{key}"]
                for key in getattr(function, "state_names", ())
            }
            equal(layer.weight.clone(), function(layer._weight_unconstrained, **state))
            layer._weight_unconstrained.add_(0.1)
        y = layer.weight.clone()
        equal(cp.bake(layer).weight, y)
        if make is cp.Orthogonal:
            layer.weight = torch.eye(3)
            equal(layer.weight.clone(), torch.eye(3))
            cp.retract(layer)
            assert max(cp.violations(layer).values()) < 1e-6


def test_map_state_alone_made_in_inference_mode():
    layer = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", cp.Orthogonal())
    with torch.inference_mode():
        for turn in (torch.eye(3), -torch.eye(3)):
            layer._weight_base = turn.clone()
            layer._weight_unconstrained.zero_()
            equal(layer.weight.clone(), turn)
            layer._weight_base.neg_()
            equal(layer.weight.clone(), -turn)


@pytest.mark.parametrize("make", FUNCTIONS)
def test_registered_and_removed_in_inference_mode(make):
    """The layer was made outside: it trains as if there had been no such mode."""
    layer, function = nn.Linear(3, 3), make()
    with torch.inference_mode():
        cp.register_constrained_parameter(layer, "weight", function)
    loss_of(layer.weight).backward()
    assert layer._weight_unconstrained.grad.abs().sum() > 0
    with torch.inference_mode():
        cp.remove_constrained_parameter(layer, "weight")
    loss_of(layer.weight).backward()


@pytest.mark.parametrize("n", [8, 64])
def test_reused_addresses(n):
    """Freed memory is handed out again: neither data_ptr nor id is a key."""
    layer = constrained_linear(tanh_exp, n)
    for k in range(60):
        layer._weight_unconstrained.data = torch.full((n, n), 0.01 * k)
        equal(layer.weight, tanh_exp(torch.full((n, n), 0.01 * k)))
    for k in range(60):
        layer._weight_unconstrained = nn.Parameter(torch.full((n, n), 0.02 * k))
        equal(layer.weight, tanh_exp(torch.full((n, n), 0.02 * k)))
