"""Optimisers choose their fast implementation for our parameters as for plain ones."""

import sys

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _default_to_fused_or_foreach

from .event import X, assert_naive, loss_of, make
from .optimizers import FAMILIES, make_optimizer


@pytest.mark.parametrize("name", FAMILIES)
def test_the_default_stays_foreach(name, monkeypatch):
    """As on a GPU, where foreach is the default: the CPU is said to be one."""
    chosen = []

    def rule(*args, **options):
        chosen.append(_default_to_fused_or_foreach(*args, **options))
        return chosen[-1]

    # each optimiser looks the rule up in its own module, the rule its devices in torch.optim.optimizer
    home = sys.modules["torch.optim.optimizer"]
    monkeypatch.setattr(home, "_get_foreach_kernels_supported_devices", lambda: ["cpu", "cuda"])
    implementation = getattr(torch.optim, "Adam" if name == "AdamW" else name).__module__
    monkeypatch.setattr(sys.modules[implementation], "_default_to_fused_or_foreach", rule)
    layer, plain = make(), nn.Parameter(torch.rand(4, 4))
    for parameters in ([plain], [getattr(layer, X)], [plain, getattr(layer, X)]):
        loss_of(layer.weight).backward()
        plain.grad = torch.rand(4, 4)
        make_optimizer(name, parameters).step()
        assert_naive(layer)
    assert chosen == [(False, True)] * 3
