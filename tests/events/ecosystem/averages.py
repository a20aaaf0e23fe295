"""Moving averages that helpers write into a model and take out again, through ``p.data``."""

import torch

from ..event import Table, X

EVENTS = Table()


def averaged(layer):
    """The helper of torch_ema, some steps away from the layer."""
    from torch_ema import ExponentialMovingAverage

    average = ExponentialMovingAverage(layer.parameters(), decay=0.5)
    with torch.no_grad():
        getattr(layer, X).add_(0.3)
    return average


@EVENTS.row("torch_ema: ema.copy_to() (eval with EMA weights)")
def copy_to(layer):
    average = averaged(layer)
    yield
    average.copy_to()


@EVENTS.row("torch_ema: ema.store(); copy_to()")
def store_and_copy(layer):
    average = averaged(layer)
    yield
    average.store()
    average.copy_to()


@EVENTS.row("torch_ema: ema.restore()")
def restore(layer):
    average = averaged(layer)
    average.store()
    average.copy_to()
    yield
    average.restore()


def of_diffusers(layer):
    from diffusers.training_utils import EMAModel

    average = EMAModel(layer.parameters(), decay=0.5)
    with torch.no_grad():
        getattr(layer, X).add_(0.3)
    return average


@EVENTS.row("diffusers EMAModel.copy_to(parameters)")
def diffusers_copy_to(layer):
    average = of_diffusers(layer)
    yield
    average.copy_to(layer.parameters())


@EVENTS.row("diffusers EMAModel.restore(parameters)")
def diffusers_restore(layer):
    average = of_diffusers(layer)
    average.store(layer.parameters())
    average.copy_to(layer.parameters())
    yield
    average.restore(layer.parameters())
