"""update="auto", "manual", "verified"; train and eval; frozen; what else belongs to f."""

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import (
    Counting,
    Symmetric,
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

MODES = ["auto", "manual", "verified"]


def counted(update):
    counting = Counting(tanh_exp)
    layer = constrained_linear(counting, update=update)
    change(layer._weight_unconstrained)
    cp.updated(layer, "weight")
    counting.reset()
    return layer, counting


@pytest.mark.parametrize("update", MODES)
def test_once_in_every_mode(update):
    layer, counting = counted(update)
    with torch.no_grad():
        _ = layer.weight
    for k in range(1, 4):
        sum(loss_of(layer.weight) for _ in range(5)).backward()
        assert counting.counts == (1, k)
    equal(layer._weight_unconstrained.grad, 15 * naive(tanh_exp, layer._weight_unconstrained)[1])


@pytest.mark.parametrize("update", ["auto", "verified"])
def test_training_needs_no_telling(update):
    layer, _ = counted(update)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01, fused=True)
    for _ in range(3):
        loss_of(layer.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert_fresh(layer, tanh_exp)


# Manual ---------------------------------------------------------------------------------------
def test_manual_checks_nothing():
    layer, counting = counted("manual")
    old = layer.weight
    kept = old.detach().clone()
    change(layer._weight_unconstrained)
    assert layer.weight is old
    layer._weight_unconstrained.data = torch.rand(4, 4)
    assert layer.weight is old
    equal(layer.weight, kept)
    assert counting.evaluations == 1
    layer.weight.updated()
    assert_fresh(layer, tanh_exp)


def test_manual_training_with_telling():
    layer, counting = counted("manual")
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        counting.reset()
        (loss_of(layer.weight) + loss_of(layer.weight)).backward()
        assert counting.counts == (1, 1)
        optimizer.step()
        optimizer.zero_grad()
        cp.updated(layer)
        (grad,) = torch.autograd.grad(2 * loss_of(tanh_exp(x)), x)
        with torch.no_grad():
            x -= 0.1 * grad
        equal(layer._weight_unconstrained, x)
    assert_fresh(layer, tanh_exp)


def assign(layer):
    layer.weight = Symmetric()(torch.rand(4, 4))


def load(layer):
    layer.load_state_dict({"_weight_unconstrained": torch.rand(4, 4)})


def load_assign(layer):
    layer.load_state_dict({"_weight_unconstrained": torch.rand(4, 4)}, assign=True)


def to_float_and_back(layer):
    layer.to(torch.float32)
    layer.to(torch.float64)


LIBRARY_WRITES = {
    "assign": assign,
    "load": load,
    "load_assign": load_assign,
    "to": to_float_and_back,
}


@pytest.mark.parametrize("write", LIBRARY_WRITES.values(), ids=LIBRARY_WRITES)
def test_manual_knows_what_the_library_itself_wrote(write):
    layer = constrained_linear(Symmetric(), update="manual")
    warm(layer)
    write(layer)
    assert_fresh(layer, Symmetric())


# Telling --------------------------------------------------------------------------------------
def test_updated_of_a_tree_tells_every_parameter():
    model = nn.Sequential(
        constrained_linear(update="manual"),
        nn.Sequential(nn.Tanh(), constrained_linear(tanh_exp, update="manual")),
    )
    layers = (model[0], model[1][1])
    for layer in layers:
        warm(layer)
        change(layer._weight_unconstrained)
    cp.updated(model)
    assert_fresh(layers[0], skew_exp)
    assert_fresh(layers[1], tanh_exp)


def test_updated_of_one_name_leaves_the_others():
    layer = nn.Linear(4, 4)
    for name in ("weight", "bias"):
        cp.register_constrained_parameter(layer, name, torch.tanh, update="manual")
    for name in ("weight", "bias"):
        warm(layer, name)
        change(getattr(layer, f"_{name}_unconstrained"))
    stale = layer.bias
    cp.updated(layer, "weight")
    assert_fresh(layer, torch.tanh, "weight")
    assert layer.bias is stale


def test_updated_on_a_former_y():
    layer = constrained_linear(update="manual")
    former = layer.weight
    for _ in range(2):
        change(layer._weight_unconstrained)
        former.updated()
        assert_fresh(layer, skew_exp)
