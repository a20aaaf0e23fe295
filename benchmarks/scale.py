"""A model with thousands of constrained layers: its cost must stay linear in their number."""

import gc
import math
import statistics
import tracemalloc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from constrainedparams import Orthogonal, register_constrained_parameter

from . import batches
from .memory import alive
from .pairs import Step, timed

SIZES = (250, 500, 1000, 2000)
QUICK = (10, 20, 40)


class Chain(nn.Module):
    """Reads the matrix of every layer once; ``how`` says what y is and who evaluates it."""

    def __init__(self, count: int, how: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(count))
        self.by_hand = how == "inline"
        self.base = torch.eye(8)
        self.function = Orthogonal("cayley")

    def register(self) -> None:
        for layer in self.layers:
            register_constrained_parameter(layer, "weight", Orthogonal("cayley"))

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            if self.by_hand:
                h = F.linear(h, self.function(layer.weight, base=self.base), layer.bias)
            else:
                h = layer(h)
        return h


def step_of(model: Chain) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    inputs = torch.rand(2, 8)

    def step() -> None:
        model(inputs).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The exponent p of seconds = c size^p, by least squares in the logarithms."""
    logs = [math.log(s) for s in sizes], [math.log(s) for s in seconds]
    return statistics.linear_regression(*logs).slope


def once(count: int) -> dict[str, float]:
    """CPU seconds to register, and of a step: unconstrained, the map inline, ours."""
    models = {how: Chain(count, how) for how in ("unconstrained", "inline", "ours")}
    gc.collect()
    found = {"registration": timed(models["ours"].register)}
    for how, model in models.items():
        step = step_of(model)
        step()
        found[how] = min(timed(step) for _ in range(3))
    return found


def held(count: int) -> dict[str, float]:
    """KiB that a constrained layer adds between steps: of Python objects, of tensors."""
    model = Chain(count, "ours")
    step_of(model)()
    before = alive()["bytes"]
    tracemalloc.start()
    try:
        model.register()
        step_of(model)()
        gc.collect()
        objects = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    unit = 1024 * count
    return {"objects": objects / unit, "tensors": (alive()["bytes"] - before) / unit}


def elsewhere(count: int) -> float:
    """µs per constrained layer that a step of another optimiser takes longer beside this model."""
    other = Chain(1, "unconstrained")
    optimizer = torch.optim.SGD(other.parameters(), 1e-4)
    other(torch.rand(2, 8)).sum().backward()

    def steps() -> None:
        for _ in range(20):
            optimizer.step()

    alone = min(timed(steps) for _ in range(9))
    model = Chain(count, "ours")
    model.register()
    model(torch.rand(2, 8))  # every layer holds a value
    beside = min(timed(steps) for _ in range(9))
    return (beside - alone) / 20 / count * 1e6


def measured(*, quick: bool) -> dict[str, Any]:
    sizes, repeats = (QUICK, 2) if quick else (SIZES, 3)
    once(sizes[0])  # warms up
    runs = [[once(size) for size in sizes] for _ in range(repeats)]
    best = [{k: min(r[i][k] for r in runs) for k in runs[0][0]} for i in range(len(sizes))]
    return {
        "rows": [{"layers": n} | seconds for n, seconds in zip(sizes, best, strict=True)],
        "exponent": {k: slope(sizes, [b[k] for b in best]) for k in best[0]},
        "held": held(sizes[-2]),
        "elsewhere": elsewhere(sizes[-2]),
        "batched": batches.measured(quick=quick),
    }
