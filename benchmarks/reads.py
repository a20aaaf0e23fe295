"""The cost of reading a constrained tensor that has not changed, beside a plain parameter."""

import statistics
import timeit
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from constrainedparams import NonNegative, Orthogonal, register_constrained_parameter

from .pairs import Step, difference, interleaved, ratio

PLAIN, CONTROL, TORCH = "nn.Linear.weight", "nn.Linear.weight again", "torch cached()"
MICROSECOND = 1e-6


class Scale(nn.Module):
    """x times a learnt number."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def layers() -> dict[str, nn.Module]:
    functions = {
        "callable": torch.tanh,
        "set": NonNegative(),
        "set with map state": Orthogonal(),
        "nn.Module with one parameter": Scale(),
    }
    found: dict[str, nn.Module] = {PLAIN: nn.Linear(8, 8), CONTROL: nn.Linear(8, 8)}
    for name, function in functions.items():
        found[name] = register_constrained_parameter(nn.Linear(8, 8), "weight", function)
    found["callable, manual"] = register_constrained_parameter(
        nn.Linear(8, 8), "weight", torch.tanh, "manual"
    )
    found[TORCH] = parametrizations.orthogonal(nn.Linear(8, 8))
    return found


def reader(layer: nn.Module, reads: int) -> Step:
    timer = timeit.Timer("layer.weight", globals={"layer": layer})
    return lambda: timer.timeit(reads)


def measured(*, quick: bool) -> dict[str, Any]:
    rounds, reads = (10, 200) if quick else (100, 5000)
    with parametrize.cached():  # it stands for the whole block: nothing changes in here
        steps = {name: reader(layer, reads) for name, layer in layers().items()}
        for step in steps.values():
            step()
        times = interleaved(steps, rounds)
    unit = MICROSECOND * reads
    rows = {
        name: {
            "microseconds": statistics.median(times[name]) / unit,
            "more": difference(times, name, PLAIN, unit),
            "times": ratio(times, name, PLAIN),
        }
        for name in steps
        if name not in (PLAIN, CONTROL)
    }
    plain = statistics.median(times[PLAIN]) / unit
    return {"plain": plain, "control": ratio(times, CONTROL, PLAIN), "rows": rows}
