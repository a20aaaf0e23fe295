"""Between steps nothing but parameters lives; what is released is released without gc."""

import gc
import weakref

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import change, constrained_linear, equal, loss_of, tanh_exp


class _Token:
    """Lives as long as the graph of f that holds it."""


class _Hold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, tokens):
        ctx.token = _Token()
        tokens.append(weakref.ref(ctx.token))
        return y.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.clone(), None


class Traced:
    """f whose graphs can be counted."""

    def __init__(self, f=tanh_exp):
        self.f, self.tokens = f, []

    def __call__(self, x):
        return _Hold.apply(self.f(x), self.tokens)

    @property
    def alive(self):
        return sum(token() is not None for token in self.tokens)


@pytest.fixture
def without_gc():
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def traced(without_gc):
    f = Traced()
    layer = constrained_linear(f)
    change(layer._weight_unconstrained)
    return layer, f


STEPS = {
    "default": {},
    "loop": {"foreach": False},
    "fused": {"fused": True},
}


@pytest.mark.parametrize("options", STEPS.values(), ids=STEPS)
def test_the_step_empties_the_slot(traced, options):
    layer, f = traced
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, **options)
    for _ in range(3):
        loss_of(layer.weight).backward()
        y = weakref.ref(layer.weight)
        assert y() is not None and f.alive == 1
        optimizer.step()
        optimizer.zero_grad()
        assert layer._weight_cache is None
        assert y() is None and f.alive == 0


def test_a_backward_lets_go_of_y_and_keeps_the_value(traced):
    """What the loss held dies with the loss's graph, as it does without a cache; f does not run."""
    layer, f = traced
    held = layer.weight
    evaluations = cp.statistics(layer)["weight"].evaluations
    value, y = held.detach().clone(), weakref.ref(held)
    loss_of(held).backward()
    assert layer.weight is held  # somebody holds it: the same object
    loss_of(layer.weight).backward()
    del held
    assert y() is None and f.alive == 1
    equal(layer.weight, value)
    first = layer._weight_unconstrained.grad.clone()
    loss_of(layer.weight).backward()
    equal(layer._weight_unconstrained.grad, 1.5 * first)
    assert cp.statistics(layer)["weight"].evaluations == evaluations


@pytest.mark.parametrize("mark", ["retain_grad", "hook", "attribute"])
def test_a_marked_y_is_kept_after_backward(traced, mark):
    layer, _ = traced
    seen = []
    if mark == "retain_grad":
        layer.weight.retain_grad()
    elif mark == "hook":
        layer.weight.register_hook(seen.append)
    else:
        layer.weight.note = "mine"
    for _ in range(2):
        loss_of(layer.weight).backward()
    if mark == "retain_grad":
        assert layer.weight.grad is not None
    elif mark == "hook":
        assert len(seen) == 2
    else:
        assert layer.weight.note == "mine"


def test_another_optimizers_step_leaves_the_slot(traced):
    layer, f = traced
    other = nn.Linear(2, 2)
    y = layer.weight
    other(torch.rand(1, 2)).sum().backward()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    assert layer._weight_cache is y and f.alive == 1


def test_a_new_value_frees_the_old_one(traced):
    layer, f = traced
    for seed in range(5):
        y = weakref.ref(layer.weight)
        loss_of(layer.weight).backward()
        change(layer._weight_unconstrained, seed)
        _ = layer.weight
        assert y() is None
        assert f.alive == 1


@pytest.mark.parametrize("tell", [cp.updated, lambda m: m.weight.updated()], ids=["module", "y"])
def test_telling_frees(traced, tell):
    layer, f = traced
    loss_of(layer.weight).backward()
    tell(layer)
    assert f.alive == 0


def test_double_backward_is_freed(traced):
    layer, f = traced
    x = layer._weight_unconstrained
    (grad,) = torch.autograd.grad(loss_of(layer.weight), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), x)
    del grad, second
    cp.updated(layer)
    assert f.alive == 0


def test_a_graph_that_was_never_pulled_back_is_freed(traced):
    layer, f = traced
    loss = loss_of(layer.weight)
    cp.updated(layer)
    assert f.alive == 1
    del loss
    assert f.alive == 0


def test_a_deleted_module_is_freed(without_gc):
    f = Traced()
    layer = constrained_linear(f)
    x, y = weakref.ref(layer._weight_unconstrained), weakref.ref(layer.weight)
    loss_of(layer.weight).backward()
    module = weakref.ref(layer)
    del layer
    assert module() is None and x() is None and y() is None
    assert f.alive == 0


@pytest.mark.parametrize("event", ["remove", "float", "freeze"])
def test_the_slot_lets_go(traced, event):
    layer, f = traced
    y = weakref.ref(layer.weight)
    loss_of(layer.weight).backward()
    if event == "remove":
        cp.remove_constrained_parameter(layer, "weight")
    elif event == "float":
        layer.float()
        _ = layer.weight
    else:
        layer.requires_grad_(False)
        _ = layer.weight
    assert y() is None
    assert f.alive == (1 if event == "float" else 0)


def test_a_frozen_model_and_eval_hold_no_graph(traced):
    layer, f = traced
    layer.eval()
    with torch.no_grad():
        layer(torch.rand(2, 4))
    assert f.alive == 0
    layer.train()
    layer.requires_grad_(False)
    layer(torch.rand(2, 4))
    assert f.alive == 0


def test_deferred_sums_are_freed(traced):
    layer, f = traced
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with cp.deferred_pullback(layer):
        loss_of(layer.weight).backward()
    loss_of(layer.weight).backward()
    optimizer.step()
    assert f.alive == 0


def test_an_exception_in_f_leaves_nothing(without_gc):
    tokens = []

    def f(x):
        if len(tokens) > 1:
            _Hold.apply(x, tokens)
            raise ValueError("mine")
        return _Hold.apply(x.tanh(), tokens)

    layer = constrained_linear(f)
    change(layer._weight_unconstrained)
    _ = layer.weight
    change(layer._weight_unconstrained, 2)
    with pytest.raises(ValueError, match="mine"):
        _ = layer.weight
    assert sum(t() is not None for t in tokens) <= 1
