"""Copies of a module, in this process and in another, are modules of their own."""

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import assert_fresh, change, constrained_linear, equal, loss_of, skew_exp, warm


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "torch_save": saved,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("state", ["cold", "warm", "trained"])
def test_independent_copies(copied, state):
    layer = constrained_linear(bias=True)
    if state != "cold":
        warm(layer)
    if state == "trained":
        loss_of(layer.weight).backward()
        torch.optim.Adam(layer.parameters(), lr=0.1).step()
        _ = layer.weight
    twin = copied(layer)
    assert type(twin) is type(layer)
    equal(twin.weight, layer.weight)
    assert twin._weight_unconstrained is not layer._weight_unconstrained
    loss_of(twin.weight).backward()
    assert state == "trained" or layer._weight_unconstrained.grad is None
    change(twin._weight_unconstrained)
    assert_fresh(twin, skew_exp)
    assert_fresh(layer, skew_exp)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_are_guarded(copied):
    """What the original notices its copy notices too."""
    layer = constrained_linear(bias=True)
    warm(layer)
    twin = copied(layer)
    warm(twin)
    twin._weight_unconstrained.data.mul_(0.5)
    assert_fresh(twin, skew_exp)
    loss_of(twin.weight).backward()
    torch.optim.SGD(twin.parameters(), lr=0.1, fused=True).step()
    assert_fresh(twin, skew_exp)
    assert_fresh(layer, skew_exp)


def test_deepcopy_keeps_the_sharing_inside():
    layer = constrained_linear()
    model = nn.Sequential(layer, layer)
    twin = copy.deepcopy(model)
    assert twin[0] is twin[1] and twin[0] is not layer
    assert_fresh(twin[0], skew_exp)


def test_shallow_copy_shares_x():
    layer = constrained_linear()
    warm(layer)
    twin = copy.copy(layer)
    assert twin._weight_unconstrained is layer._weight_unconstrained
    change(layer._weight_unconstrained)
    assert_fresh(twin, skew_exp)
    assert_fresh(layer, skew_exp)


def test_copies_of_a_set_with_state():
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", cp.Orthogonal())
    assert "_weight_base" in layer.state_dict()
    for copied in COPIES.values():
        twin = copied(layer)
        equal(twin.weight, layer.weight)
        assert cp.constraint_of(twin, "weight") == cp.Orthogonal()
    other = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", cp.Orthogonal())
    other.load_state_dict(layer.state_dict())
    equal(other.weight, layer.weight)


def test_other_processes(tmp_path):
    """A spawned process gets modules with a warm cache, and reads a file: nothing is lost."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("spawned.py")), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        cwd=tmp_path,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0"], done.stderr
