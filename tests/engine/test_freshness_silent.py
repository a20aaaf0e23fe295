"""Writes that nothing in Python reveals: `updated()` tells, `update="verified"` finds out."""

import ctypes

import pytest
import torch
from torch import nn
from torch.nn.utils import vector_to_parameters

import constrainedparams as cp

from .oracle import Counting, assert_fresh, constrained_linear, skew_exp, tanh_exp, warm


def numpy_alias(x):
    x.detach().numpy()[0, 1] = 0.7


def dlpack_alias(x):
    torch.from_dlpack(x.detach()).add_(0.25)


def storage_copy(x):
    x.untyped_storage().copy_(torch.rand(4, 4).untyped_storage())


def raw_pointer(x):
    values = torch.rand(16).tolist()
    ctypes.memmove(x.data_ptr(), (ctypes.c_double * 16)(*values), 16 * 8)


def preserved_counter(x):
    with torch.no_grad(), torch.autograd._unsafe_preserve_version_counter(x):
        x.add_(0.25)


def aliased_vector(x):
    """vector_to_parameters leaves x a view of the vector, which has a counter of its own."""
    flat = torch.rand(16)
    vector_to_parameters(flat, [x])
    yield
    flat.add_(0.25)


SILENT = {
    f.__name__: f
    for f in (
        numpy_alias,
        dlpack_alias,
        storage_copy,
        raw_pointer,
        preserved_counter,
        aliased_vector,
    )
}
# fmt: off
TELL = {
    "y.updated": lambda layer: layer._weight_cache.updated(),
    "y.update": lambda layer: layer._weight_cache.update(),
    "updated(module)": cp.updated,
    "updated(module, name)": lambda layer: cp.updated(layer, "weight"),
    "updated(tree)": lambda layer: cp.updated(nn.Sequential(layer)),
}
# fmt: on


def prepare(event, f, **options):
    """The layer with a warm cache, and the silent write still to be made."""
    layer = constrained_linear(f, **options)
    x = layer._weight_unconstrained
    if event is aliased_vector:
        steps = aliased_vector(x)
        next(steps)
        warm(layer)
        return layer, lambda: next(steps, None)
    warm(layer)
    return layer, lambda: event(x)


@pytest.mark.parametrize("tell", TELL.values(), ids=TELL)
@pytest.mark.parametrize("event", SILENT.values(), ids=SILENT)
def test_told(event, tell):
    layer, write = prepare(event, skew_exp)
    before = layer._weight_unconstrained.detach().clone()
    write()
    assert not torch.equal(layer._weight_unconstrained, before)
    tell(layer)
    assert_fresh(layer, skew_exp)


@pytest.mark.parametrize("event", SILENT.values(), ids=SILENT)
def test_verified(event):
    layer, write = prepare(event, skew_exp, update="verified")
    write()
    assert_fresh(layer, skew_exp)


@pytest.mark.parametrize("event", SILENT.values(), ids=SILENT)
def test_verified_in_forward(event):
    """Compared once per outermost forward: also when the read happens inside a larger model."""
    layer, write = prepare(event, skew_exp, update="verified")
    model = nn.Sequential(nn.Linear(4, 4), layer)
    inputs = torch.rand(2, 4)
    model(inputs)
    write()
    want = model[0](inputs) @ skew_exp(layer._weight_unconstrained.detach()).t()
    torch.testing.assert_close(model(inputs), want, rtol=1e-12, atol=1e-12)


def test_verified_runs_f_once_per_change():
    counting = Counting(tanh_exp)
    layer = constrained_linear(counting, update="verified")
    numpy_alias(layer._weight_unconstrained)
    counting.reset()
    for _ in range(5):
        layer(torch.rand(2, 4)).sum().backward()
        with torch.no_grad():
            layer(torch.rand(2, 4))
    assert counting.counts == (1, 5)


def test_told_runs_f_once_per_telling():
    counting = Counting(tanh_exp)
    layer = constrained_linear(counting)
    _ = layer.weight
    counting.reset()
    for k in range(1, 4):
        numpy_alias(layer._weight_unconstrained)
        cp.updated(layer, "weight")
        for _ in range(3):
            _ = layer.weight
        assert counting.evaluations == k


class Marked(nn.Parameter):
    """A parameter class of somebody else's: its ``.data`` is torch's own."""


def test_a_subclass_of_parameter_is_verified():
    layer = nn.Linear(4, 4, bias=False)
    layer.weight = Marked(torch.rand(4, 4))
    cp.register_constrained_parameter(layer, "weight", skew_exp)
    y = warm(layer)
    cp.register_constrained_parameter(layer, "weight", skew_exp)  # again: nothing changes
    assert layer.weight is y
    assert type(layer._weight_unconstrained) is Marked
    layer._weight_unconstrained.data.add_(0.25)
    assert_fresh(layer, skew_exp)


@pytest.mark.parametrize("way", ["assigned", "loaded"])
def test_a_subclass_that_comes_later_is_verified(way):
    layer = cp.register_constrained_parameter(nn.Linear(4, 4, bias=False), "weight", skew_exp)
    warm(layer)
    marked = Marked(torch.rand(4, 4))
    if way == "assigned":
        layer._weight_unconstrained = marked
    else:
        layer.load_state_dict({"_weight_unconstrained": marked}, assign=True)
    assert layer._weight_unconstrained is marked
    warm(layer)
    marked.data.add_(0.25)
    assert_fresh(layer, skew_exp)
