"""Kinds of optimisers, of writes to x, and of uses that notice a write to y."""

import pytest
import torch
from torch import optim

import constrainedparams as cp

OPTIMISERS = {
    "sgd foreach": lambda p: optim.SGD(p, lr=0.03, momentum=0.5, foreach=True),
    "sgd fused": lambda p: optim.SGD(p, lr=0.03, fused=True),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "adam fused": lambda p: optim.Adam(p, lr=0.01, fused=True),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.02),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.005),
    "muon": lambda p: optim.Muon(p, lr=0.01),
}


def _data_assigned(x, t):
    x.data = t.clone()


@torch.no_grad()
def _part(x, t):
    x[0].copy_(t[0])


@torch.no_grad()
def _copied(x, t):
    x.copy_(t)


@torch.no_grad()
def _scaled(x, t):
    x.mul_(0.8).add_(0.1 * t)


WRITES = {
    "data": lambda x, t: x.data.copy_(t),
    "data assigned": _data_assigned,
    "data of a part": lambda x, t: x.data[1].add_(t[1]),
    "part": _part,
    "copied": _copied,
    "scaled": _scaled,
}

USES = {
    "access": lambda layer: layer.weight,
    "forward": lambda layer: layer(torch.ones(2, 3, dtype=torch.float64)),
    "state_dict": lambda layer: layer.state_dict(),
    "plain_state_dict": cp.plain_state_dict,
}


def raises_constraint_error():
    return pytest.raises(cp.ConstraintError)
