"""Optimisers of other packages. Their imports stand inside: the list of rows needs none of them."""

import importlib

import torch
from torch import nn

import constrainedparams as cp

from ..event import Event, Table, X, f, loss_of

EVENTS = Table()


def backward(layer):
    loss_of(layer.weight).backward()
    _ = layer.weight


def step(path, prepare=None, single=False, **options):
    """One step of the optimiser ``path``; ``single``: of parameters in float32."""
    package, name = path.rsplit(".", 1)

    def act(layer):
        if single:
            layer.float()
        yield
        optimizer = getattr(importlib.import_module(package), name)(layer.parameters(), **options)
        if prepare:
            getattr(optimizer, prepare)()
        backward(layer)
        optimizer.step()

    return act


STEPS = {
    "lion_pytorch.Lion.step": step("lion_pytorch.Lion", lr=0.01),
    "prodigyopt.Prodigy.step": step("prodigyopt.Prodigy", d0=0.01),
    "schedulefree.AdamWScheduleFree.step": step("schedulefree.AdamWScheduleFree", "train", lr=0.01),
    "pytorch_optimizer.Lion.step": step("pytorch_optimizer.Lion", lr=0.01),
    "pytorch_optimizer.AdaBelief.step": step("pytorch_optimizer.AdaBelief", lr=0.01),
    "pytorch_optimizer.StableAdamW.step": step("pytorch_optimizer.StableAdamW", lr=0.01),
    "pytorch_optimizer.Grams.step": step("pytorch_optimizer.Grams", lr=0.01),
    "bitsandbytes.AdamW8bit.step (CPU)": step(
        "bitsandbytes.optim.AdamW8bit", single=True, lr=0.01, min_8bit_size=1
    ),
    "bitsandbytes.Lion8bit.step (CPU)": step(
        "bitsandbytes.optim.Lion8bit", single=True, lr=0.01, min_8bit_size=1
    ),
    "torchopt.Adam.step()": step("torchopt.Adam", lr=0.01),
}
for row, act in STEPS.items():
    EVENTS[row] = Event(row, act)


@EVENTS.row("schedulefree optimizer.eval()  (swaps weights, no step)")
def schedulefree_eval(layer):
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(layer.parameters(), lr=0.1, betas=(0.5, 0.9))
    optimizer.train()
    for _ in range(3):
        backward(layer)
        optimizer.step()
    yield
    optimizer.eval()


def sharpness_aware(layer):
    from pytorch_optimizer import SAM

    optimizer = SAM(layer.parameters(), torch.optim.SGD, rho=0.05, lr=0.1)
    backward(layer)
    return optimizer


@EVENTS.row("pytorch_optimizer.SAM.first_step (perturb)")
def sam_first(layer):
    sharpness_aware(layer).first_step(zero_grad=True)


@EVENTS.row("pytorch_optimizer.SAM.second_step")
def sam_second(layer):
    optimizer = sharpness_aware(layer)
    optimizer.first_step(zero_grad=True)
    backward(layer)
    optimizer.second_step(zero_grad=True)


def on_a_manifold(**options):
    """x is a parameter class of geoopt's: it is compared by value."""
    import geoopt

    layer = nn.Linear(4, 4, bias=False)
    layer.weight = geoopt.ManifoldParameter(torch.rand(4, 4), manifold=geoopt.Sphere())
    return cp.register_constrained_parameter(layer, "weight", f, **options)


@EVENTS.row("geoopt.RiemannianAdam.step on ManifoldParameter", make=on_a_manifold)
def riemannian(layer):
    import geoopt

    optimizer = geoopt.optim.RiemannianAdam(layer.parameters(), lr=0.01)
    backward(layer)
    optimizer.step()


@EVENTS.row("torchopt.MetaSGD.step(loss) (differentiable)")
def meta_sgd(layer):
    """x becomes a tensor in a graph, put straight into the dict of parameters."""
    import torchopt

    leaf = getattr(layer, X)
    torchopt.MetaSGD(layer, lr=0.1).step(loss_of(layer.weight))
    assert getattr(layer, X) is not leaf


def pyro_step(name):
    def act(layer):
        import pyro

        backward(layer)
        getattr(pyro.optim, name)({"lr": 0.01})(list(layer.parameters()))

    return act


for name in ("Adam", "ClippedAdam"):
    EVENTS[f"pyro.optim.{name}(...)(params)"] = Event(
        f"pyro.optim.{name}(...)(params)", pyro_step(name)
    )
