"""Memory: the peak of a step beside the map at each read, and whether long training grows."""

import gc
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.profiler import profile
from tqdm import tqdm

from constrainedparams import (
    NonNegative,
    Orthogonal,
    deferred_pullback,
    register_constrained_parameter,
)

MAPS = ("exp", "cayley")


def measured(*, quick: bool) -> dict[str, Any]:
    checkpoints = (20, 40) if quick else (1_000, 10_000)
    layers, size = (3, 16) if quick else (12, 256)
    return {
        "growth": growth(*checkpoints),
        "peak": {
            "layers": layers,
            "size": size,
            "one_y_per_layer": layers * size * size * 4 / 2**20,
            "maps": {kind: peaks(layers, size, kind) for kind in MAPS},
        },
    }


# growth ----------------------------------------------------------------------------------------


def alive() -> dict[str, int]:
    """What Python holds, and the bytes behind its tensors (each storage once)."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [o for o in objects if issubclass(type(o), Tensor)]  # asks no lazy module
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return {"tensors": len(tensors), "bytes": sum(storages.values()), "objects": len(objects)}


def growth(early: int, late: int) -> dict[str, Any]:
    """Live tensors after ``early`` and after ``late`` steps of a model that has all kinds of f."""
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))
    for layer, function in zip(model, (Orthogonal(), NonNegative(), torch.tanh), strict=True):
        register_constrained_parameter(layer, "weight", function)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    inputs = torch.rand(2, 6)

    def step() -> None:
        with deferred_pullback(model):
            model(inputs).square().sum().backward()
        model(inputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    allocated(step)  # what the profiler itself keeps is no growth
    found: dict[str, Any] = {}
    for number in tqdm(range(1, late + 1), desc="growth", leave=False):
        step()
        if number in (early, late):
            net, _ = allocated(step)
            found[str(number)] = alive() | {"left by one more step": net}
    return found


# peak ------------------------------------------------------------------------------------------


def allocated(work: Callable[[], object]) -> tuple[int, int]:
    """(net, peak) bytes of tensors that work() adds to what lives when it starts."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports each start otherwise
    with profile(profile_memory=True) as prof:
        work()
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return now, peak


class AtEveryRead(nn.Module):
    """The same map with the same state as a parametrization of torch."""

    def __init__(self, function: Orthogonal, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.function, self.state = function, state

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **self.state)


def peaks(count: int, size: int, kind: str) -> dict[str, Any]:
    """MiB that one step adds at its peak, by micro-batches, where every matrix is read once.

    That is the hardest case: the map at each read keeps as many graphs as there are reads.
    """
    found: dict[str, Any] = {}
    for micro_batches in (1, 2):
        found[str(micro_batches)] = {
            name: allocated(step_of(chain(name, count, size, kind), micro_batches))[1] / 2**20
            for name in ("unconstrained", "map at each read", "ours")
        }
    return found


def chain(name: str, count: int, size: int, kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(size, size, bias=False) for _ in range(count)))
    for layer in model if name != "unconstrained" else ():
        function = Orthogonal(kind)
        if name == "ours":
            register_constrained_parameter(layer, "weight", function)
        else:
            x, state = function.right_inverse(function.project(layer.weight.detach()))
            layer.weight = nn.Parameter(x)
            naive = AtEveryRead(function, state)
            parametrize.register_parametrization(layer, "weight", naive, unsafe=True)
    return model


def step_of(model: nn.Sequential, micro_batches: int) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    inputs = torch.rand(2, model[0].in_features)

    def step() -> None:
        for _ in range(micro_batches):
            model(inputs).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return step
