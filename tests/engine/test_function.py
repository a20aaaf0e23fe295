"""What belongs to f besides x: its parameters, its buffers, train and eval."""

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import (
    Softened,
    assert_fresh,
    change,
    constrained_linear,
    equal,
    loss_of,
    skew_exp,
    warm,
)


class Scale(nn.Module):
    """A function with a buffer that others write, a counter, and dropout that train() switches."""

    def __init__(self, p=0.0):
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0))
        self.dropout = nn.Dropout(p)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.dropout(x * self.scale)


def test_a_buffer_of_f_is_watched():
    f = Scale()
    layer = constrained_linear(f)
    warm(layer)
    f.scale.mul_(2.0)
    equal(layer.weight, 2 * layer._weight_unconstrained)
    f.scale = torch.tensor(3.0)
    equal(layer.weight, 3 * layer._weight_unconstrained)
    layer.load_state_dict(layer.state_dict() | {"_weight_function.scale": torch.tensor(4.0)})
    equal(layer.weight, 4 * layer._weight_unconstrained)


def test_train_and_eval_of_f():
    torch.manual_seed(1)
    f = Scale(0.5)
    layer = constrained_linear(f)
    x = layer._weight_unconstrained.detach()
    change(layer._weight_unconstrained)
    f.calls = 0
    first = layer.weight.detach().clone()
    assert (first == 0).any()
    equal(layer.weight, first)
    assert f.calls == 1
    layer.eval()
    equal(layer.weight, x)
    layer.train()
    assert (layer.weight == 0).any()


class PowerIteration(nn.Module):
    """As spectral normalisation does: f updates a buffer of its own."""

    def __init__(self, n):
        super().__init__()
        self.register_buffer("u", torch.ones(n) / n**0.5)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        with torch.no_grad():
            v = x.t() @ self.u
            v = v / v.norm()
            u = x @ v
            self.u.copy_(u / u.norm())
        return x / (self.u.clone() @ x @ v)


def test_a_buffer_that_f_updates_itself():
    layer = constrained_linear(PowerIteration(4))
    change(layer._weight_unconstrained)
    f = layer._weight_function
    f.calls = 0
    u = f.u.clone()
    for _ in range(3):
        loss_of(layer.weight).backward()
        with torch.no_grad():
            _ = layer.weight
    assert f.calls == 1
    assert not torch.equal(f.u, u)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_a_parameter_of_f_is_trained_and_watched(options):
    f = Softened()
    layer = constrained_linear(f)
    optimizer = torch.optim.Adam([f.sharpness], lr=0.1, **options)
    for _ in range(3):
        before = layer.weight.detach().clone()
        loss_of(layer.weight).backward()
        optimizer.step()
        layer.zero_grad()
        assert not torch.equal(layer.weight, before)
        assert_fresh(layer, f)


def rewrite(parameter):
    with torch.no_grad():
        parameter.fill_(3.0)


def rewrite_data(parameter):
    parameter.data.fill_(3.0)


def replace_data(parameter):
    parameter.data = torch.tensor(3.0)


@pytest.mark.parametrize("write", [rewrite, rewrite_data, replace_data], ids=lambda w: w.__name__)
def test_a_parameter_of_f_is_written(write):
    f = Softened()
    layer = constrained_linear(f)
    warm(layer)
    write(f.sharpness)
    equal(layer.weight, torch.tanh(3 * layer._weight_unconstrained) / 3)
    assert_fresh(layer, f)


def test_a_parameter_of_f_is_replaced():
    f = Softened()
    layer = constrained_linear(f)
    warm(layer)
    f.sharpness = nn.Parameter(torch.tensor(3.0))
    equal(layer.weight, torch.tanh(3 * layer._weight_unconstrained) / 3)
    loss_of(layer.weight).backward()
    assert f.sharpness.grad is not None


def test_a_frozen_parameter_of_f():
    f = Softened()
    layer = constrained_linear(f)
    f.sharpness.requires_grad_(False)
    loss_of(layer.weight).backward()
    assert f.sharpness.grad is None
    assert_fresh(layer, f)
    f.sharpness.requires_grad_(True)
    layer._weight_unconstrained.requires_grad_(False)
    loss_of(layer.weight).backward()
    assert f.sharpness.grad is not None


@pytest.mark.parametrize("frozen", ["before", "after"])
def test_a_frozen_model_has_no_graph(frozen):
    layer = nn.Linear(4, 4)
    if frozen == "before":
        layer.requires_grad_(False)
    cp.register_constrained_parameter(layer, "weight", skew_exp)
    layer.requires_grad_(False)
    assert not layer.weight.requires_grad
    assert layer.weight.grad_fn is None
    layer.requires_grad_(True)
    assert_fresh(layer, skew_exp)


def test_a_constrained_parameter_inside_f():
    """f is a module whose own weight is constrained: both gradients, both kinds of staleness."""

    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Parameter(torch.rand(4, 4))
            cp.register_constrained_parameter(self, "q", skew_exp)

        def forward(self, x):
            return self.q @ x.tanh()

    f = Mixing()
    layer = constrained_linear(f)

    def check():
        x = layer._weight_unconstrained.detach().clone().requires_grad_()
        z = f._q_unconstrained.detach().clone().requires_grad_()
        loss = loss_of(skew_exp(z) @ x.tanh())
        want = torch.autograd.grad(loss, (x, z))
        got = torch.autograd.grad(
            loss_of(layer.weight), (layer._weight_unconstrained, f._q_unconstrained)
        )
        equal(layer.weight, skew_exp(z) @ x.tanh())
        equal(got[0], want[0])
        equal(got[1], want[1])

    check()
    change(f._q_unconstrained)
    check()
    change(layer._weight_unconstrained)
    check()
    assert_fresh(f, skew_exp, "q")


def test_one_module_as_the_function_of_two_layers():
    f = Softened()
    one, two = constrained_linear(f), constrained_linear(f)
    model = nn.Sequential(one, two)
    assert len(list(model.parameters())) == 3
    (loss_of(one.weight) + loss_of(two.weight)).backward()
    s = f.sharpness.detach().clone().requires_grad_()
    for layer in (one, two):
        x = layer._weight_unconstrained.detach().clone().requires_grad_()
        loss_of(torch.tanh(s * x) / s).backward()
        equal(layer._weight_unconstrained.grad, x.grad)
    equal(f.sharpness.grad, s.grad)
    torch.optim.SGD(model.parameters(), lr=0.1, fused=True).step()
    assert_fresh(one, f)
    assert_fresh(two, f)
