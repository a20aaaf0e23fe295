"""The feature request (github.com/pytorch/pytorch/issues/28937), one test per sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import Counting, assert_fresh, change, equal, loss_of, naive, skew_exp

EXAMPLE = Path(__file__).parents[2] / "examples" / "the_request.py"


def spd(x):
    """L L^T with a positive diagonal."""
    lower = x.tril(diagonal=-1) + x.diagonal().exp().diag()
    return lower @ lower.t()


def powers(x):
    """A number, 0-dimensional or of one element, to a vector."""
    return x ** torch.arange(1, 6, dtype=x.dtype)


MAPS = {
    "exp_of_skew": (skew_exp, (4, 4)),
    "spd": (spd, (4, 4)),
    "tanh": (torch.tanh, (4, 5)),
    "relu": (torch.relu, (4, 5)),
    "number_0dim": (powers, ()),
    "number_1elem": (powers, (1,)),
}


@pytest.fixture(params=MAPS, ids=list(MAPS))
def mapped(request):
    f, shape = MAPS[request.param]
    return f, torch.rand(shape) + 0.1


def test_five_maps_value_and_gradient(mapped):
    f, start = mapped
    w = cp.Parametrized(start, f)
    value, grad = naive(f, start)
    equal(w.y, value)
    loss_of(w.y).backward()
    equal(w.x.grad, grad)
    assert isinstance(w.x, nn.Parameter)


def test_five_maps_on_a_module(mapped):
    f, start = mapped
    module = nn.Module()
    module.W = nn.Parameter(start.clone())
    assert cp.register_constrained_parameter(module, "W", f) is module
    assert_fresh(module, f, "W")
    equal(module._W_unconstrained, start)
    change(module._W_unconstrained)
    assert_fresh(module, f, "W")


def test_five_maps_train_as_the_naive_model(mapped):
    f, start = mapped
    counting = Counting(f)
    w = cp.Parametrized(start, counting)
    x = start.clone().requires_grad_()
    ours, theirs = (torch.optim.SGD([p], lr=1e-4, momentum=0.9) for p in (w.x, x))
    for _ in range(5):
        counting.reset()
        sum(loss_of(w.y) for _ in range(7)).backward()
        sum(loss_of(f(x)) for _ in range(7)).backward()
        assert counting.evaluations <= 1 and counting.derivatives == 1
        equal(w.x.grad, x.grad)
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
        equal(w.x, x)
        equal(w.y, f(x))


def test_read_between_backward_and_step():
    """A hook-based flag, as the request sketches it, would keep the old value here."""
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", skew_exp)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    layer(torch.rand(2, 4)).square().sum().backward()
    old = layer.weight.detach().clone()
    equal(layer.weight, skew_exp(layer._weight_unconstrained))
    optimizer.step()
    assert not torch.equal(layer.weight, old)
    optimizer.zero_grad()
    assert_fresh(layer, skew_exp)


class Eye(cp.ConstrainedModule):
    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.rand(4, 4))
        self.register_constrained_parameter(name="W", function=skew_exp, update="auto")
        self.first = self.W.detach().clone()
        torch.nn.init.eye_(self._W_unconstrained)

    def forward(self, inputs):
        return inputs @ self.W.t()


def test_init_after_a_first_read_inside_init():
    module = Eye()
    assert not torch.equal(module.first, torch.eye(4))
    equal(module.W, torch.eye(4))
    equal(module(torch.eye(4)), torch.eye(4))
    assert_fresh(module, skew_exp, "W")


def test_mixin_over_a_class_of_torch():
    class Mixed(cp.ConstrainedModule, nn.Linear):
        pass

    layer = Mixed(4, 4)
    assert layer.register_constrained_parameter("weight", skew_exp) is layer
    assert isinstance(layer, Mixed)
    assert_fresh(layer, skew_exp)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_first_read_without_grad(mode):
    counting = Counting(skew_exp)
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", counting)
    change(layer._weight_unconstrained)
    counting.reset()
    with mode():
        layer(torch.rand(2, 4))
    loss_of(layer.weight).backward()
    equal(layer._weight_unconstrained.grad, naive(skew_exp, layer._weight_unconstrained)[1])
    assert counting.counts == (1, 1)


def test_manual_not_told_keeps_the_old_value():
    lin = nn.Linear(4, 4)
    cp.register_constrained_parameter(lin, name="weight", function=torch.tanh, update="manual")
    old = lin.weight
    kept = old.detach().clone()
    change(lin._weight_unconstrained)
    assert lin.weight is old
    equal(lin.weight, kept)


@pytest.mark.parametrize("tell", ["updated", "update"])
def test_manual_told(tell):
    lin = nn.Linear(4, 4)
    cp.register_constrained_parameter(lin, name="weight", function=torch.tanh, update="manual")
    _ = lin.weight
    change(lin._weight_unconstrained)
    getattr(lin.weight, tell)()
    assert_fresh(lin, torch.tanh)


@pytest.mark.parametrize("tell", ["updated", "update"])
def test_updated_of_a_module_that_registers_itself(tell):
    module = Eye()
    _ = module.W
    module._W_unconstrained.detach().numpy()[0, 1] = 0.3
    getattr(module.W, tell)()
    assert_fresh(module, skew_exp, "W")


def test_method_on_every_module():
    assert "register_constrained_parameter" not in vars(nn.Module)
    before = set(vars(nn.Module))
    cp.extend_nn_module()
    try:
        lin = nn.Linear(4, 4)
        lin.register_constrained_parameter(name="weight", function=skew_exp, update="auto")
        assert_fresh(lin, skew_exp)
        lin.weight.updated()
        assert_fresh(lin, skew_exp)
        cp.extend_nn_module()
    finally:
        for name in set(vars(nn.Module)) - before:
            delattr(nn.Module, name)
    assert not hasattr(nn.Linear(1, 1), "register_constrained_parameter")


def test_assignment_with_right_inverse():
    layer = nn.Linear(4, 4)
    cp.register_constrained_parameter(layer, "weight", cp.Orthogonal())
    target = skew_exp(torch.rand(4, 4)) @ layer.weight.detach()
    layer.weight = target
    equal(layer.weight, target, rtol=0, atol=1e-12)
    assert cp.is_constrained(layer, "weight")
    (grad,) = torch.autograd.grad(loss_of(layer.weight), layer._weight_unconstrained)
    assert grad.norm() > 0


def test_assignment_without_right_inverse():
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", torch.tanh)
    x = layer._weight_unconstrained.detach().clone()
    with pytest.raises(cp.NoRightInverse, match="_weight_unconstrained"):
        layer.weight = torch.zeros(4, 4)
    equal(layer._weight_unconstrained, x)
    assert_fresh(layer, torch.tanh)


def in_place(layer):
    with torch.no_grad():
        layer.weight.mul_(2.0)


def in_place_with_grad(layer):
    layer.weight.mul_(2.0)


def one_entry(layer):
    with torch.no_grad():
        layer.weight[0, 0] = 5.0


def through_data(layer):
    layer.weight.data += 1.0


def through_data_copy(layer):
    layer.weight.data.copy_(torch.ones(4, 4))


def through_init(layer):
    nn.init.ones_(layer.weight)


@pytest.mark.parametrize(
    "write",
    [in_place, in_place_with_grad, one_entry, through_data, through_data_copy, through_init],
    ids=lambda f: f.__name__,
)
def test_modifying_the_constrained_tensor_raises(write):
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", skew_exp)
    good = layer.weight.detach().clone()
    with pytest.raises(cp.ConstraintError):
        write(layer)
        layer(torch.rand(2, 4))
    equal(layer.weight, good)
    assert_fresh(layer, skew_exp)


def test_temporary_change_of_the_cached_value():
    layer = cp.register_constrained_parameter(nn.Linear(4, 4, bias=False), "weight", skew_exp)
    inputs, before = torch.rand(2, 4), layer.weight.detach().clone()
    with cp.temporarily(layer, "weight", torch.eye(4)):
        equal(layer(inputs), inputs)
    equal(layer.weight, before)
    assert_fresh(layer, skew_exp)


def test_the_cache_is_visible_and_never_evaluates():
    counting = Counting(skew_exp)
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", counting)
    y = layer.weight
    assert layer._weight_cache is y
    change(layer._weight_unconstrained)
    counting.reset()
    assert layer._weight_cache is None
    assert counting.evaluations == 0
    assert "_weight_cache" not in layer.state_dict()
    assert "_weight_cache" not in dict(layer.named_buffers())


def test_the_example_runs():
    environment = dict(os.environ, PYTHONWARNINGS="error")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the identity" in done.stdout and "NoRightInverse" in done.stdout
