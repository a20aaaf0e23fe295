"""Rows of torch alone that need more than a layer, a write and a read."""

import pytest
import torch
from torch.func import functional_call
from torch.testing import assert_close

from .event import Runs, X, f, loss_of, make, warm
from .optimizers import DIFFERENTIABLE, make_optimizer

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def unrolled(name, leaf, read):
    """y and its gradient with respect to ``leaf`` after one step that is differentiated through."""
    p = leaf.clone()  # no leaf: the step goes into its graph
    optimizer = make_optimizer(name, [p], differentiable=True)
    (p.grad,) = torch.autograd.grad(loss_of(read(p)), p, create_graph=True)
    optimizer.step()
    Runs.count = 0
    y = read(p)
    ran = Runs.count
    return y, torch.autograd.grad(loss_of(y), leaf)[0], ran


@pytest.mark.parametrize("row", DIFFERENTIABLE)
def test_differentiable_step(row):
    """Meta-learning: the layer is called with a tensor that an optimiser steps in its graph."""
    layer = make()
    warm(layer)
    leaf = torch.rand(4, 4, requires_grad=True)
    got = unrolled(
        DIFFERENTIABLE[row], leaf, lambda p: functional_call(layer, {X: p}, (torch.eye(4),))
    )
    want = unrolled(DIFFERENTIABLE[row], leaf, lambda p: f(p).t())
    assert_close(got[0], want[0], **CLOSE)
    assert_close(got[1], want[1], **CLOSE)
    assert got[2] == 1
    assert_close(layer.weight.detach().clone(), f(getattr(layer, X)).detach(), **CLOSE)


def test_x_made_in_inference_mode():
    """Such a tensor has no version counter: f runs at each read."""
    with torch.inference_mode():
        layer = make()
        for _ in range(2):
            Runs.count = 0
            assert_close(layer.weight.clone(), f(getattr(layer, X)))
            assert Runs.count == 2  # once for the naive value
            getattr(layer, X).add_(0.1)


def test_to_meta():
    """There are no values left; after new ones have come the layer is as good as new."""
    layer = make()
    warm(layer)
    layer.to("meta")
    assert layer.weight.is_meta and layer.weight.shape == (4, 4)
    layer.to_empty(device="cpu")
    torch.nn.init.uniform_(getattr(layer, X))
    assert_close(layer.weight.detach().clone(), f(getattr(layer, X)).detach())
