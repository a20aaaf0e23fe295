"""What the engine itself costs when x has changed: a step of many layers with next to no f."""

import cProfile
import pstats
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from constrainedparams import NonNegative, register_constrained_parameter

from .pairs import Step, difference, interleaved, ratio
from .reads import Scale

MICROSECOND = 1e-6
CONTROL = "callable, ours, again"
FUNCTIONS: dict[str, Callable[[], Any]] = {
    "callable": lambda: torch.neg,
    "set": NonNegative,
    "nn.Module with one parameter": Scale,
}


class Layers(nn.Module):
    """Small matrices of which each is read once in a step; f by the engine, by hand, or not."""

    def __init__(self, count: int, function: Callable[[], Any] | None, *, engine: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(count))
        self.functions: list[Any] = []
        if function is not None:
            made = [function() for _ in range(count)]
            if engine:
                for layer, f in zip(self.layers, made, strict=True):
                    register_constrained_parameter(layer, "weight", f)
            else:
                self.functions = made
                self.owned = nn.ModuleList(f for f in made if isinstance(f, nn.Module))

    def forward(self) -> list[Tensor]:
        weights = [layer.weight for layer in self.layers]
        if self.functions:
            return [f(w) for f, w in zip(self.functions, weights, strict=True)]
        return weights


def step_of(model: Layers) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    ones = torch.ones(4, 4)

    def step() -> None:
        weights = model()
        torch.autograd.backward(weights, [ones] * len(weights))
        optimizer.step()
        optimizer.zero_grad()

    return step


def measured(*, quick: bool) -> dict[str, Any]:
    """Microseconds per layer and step, over the same f called where it is read."""
    count, rounds = (20, 10) if quick else (128, 120)
    unit = MICROSECOND * count
    models: dict[str, Layers] = {
        "plain": Layers(count, None, engine=False),
        CONTROL: Layers(count, FUNCTIONS["callable"], engine=True),
    }
    for name, function in FUNCTIONS.items():
        models[f"{name}, inline"] = Layers(count, function, engine=False)
        models[f"{name}, ours"] = Layers(count, function, engine=True)
    steps = {name: step_of(model) for name, model in models.items()}
    for step in steps.values():
        for _ in range(3):
            step()
    times = interleaved(steps, rounds)
    rows = {
        name: {
            "inline": statistics.median(times[f"{name}, inline"]) / unit,
            "ours": statistics.median(times[f"{name}, ours"]) / unit,
            "more": difference(times, f"{name}, ours", f"{name}, inline", unit),
        }
        for name in FUNCTIONS
    }
    return {
        "layers": count,
        "plain": statistics.median(times["plain"]) / unit,
        "control": ratio(times, CONTROL, "callable, ours"),
        "rows": rows,
    }


def profiled(count: int = 128, steps: int = 100) -> None:
    """Print where such a step spends its time, function by function."""
    step = step_of(Layers(count, FUNCTIONS["callable"], engine=True))
    for _ in range(3):
        step()
    with cProfile.Profile() as profile:
        for _ in range(steps):
            step()
    pstats.Stats(profile).sort_stats("tottime").print_stats(30)
