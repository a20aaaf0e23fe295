"""Many small matrices: each evaluated alone, as a batch, and as a batch written out by hand."""

import statistics
from typing import Any

import torch
from torch import Tensor, nn

from constrainedparams import Orthogonal, batch, register_constrained_parameter

from .pairs import Step, Times, difference, interleaved, ratio

SIZE, COUNT = 8, 256
LARGER = ((16, 128), (32, 64), (64, 32), (128, 16))
CONTROL = "batched, again"


class Layers(nn.Module):
    """Every matrix is read once in a step; ``how`` says what y is and who evaluates it."""

    def __init__(self, size: int, count: int, how: str, kind: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(count))
        self.function = Orthogonal(kind)
        self.by_hand = how == "by hand"
        self.bases = torch.eye(size).expand(count, size, size).contiguous()
        for layer in self.layers:
            with torch.no_grad():
                layer.weight.copy_(torch.randn(size, size) / size)
            if how in ("one by one", "batched", CONTROL):
                start = layer.weight.detach().clone()
                register_constrained_parameter(layer, "weight", Orthogonal(kind))
                with torch.no_grad():
                    layer._weight_unconstrained.copy_(start)  # type: ignore[operator]
        if how in ("batched", CONTROL):
            batch(self)

    def forward(self) -> list[Tensor]:
        weights = [layer.weight for layer in self.layers]
        if self.by_hand:  # the bases are stacked once for all steps
            return list(self.function(torch.stack(weights), base=self.bases).unbind())
        return weights


def step_of(model: Layers) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    ones = torch.ones_like(next(model.parameters()))

    def step() -> None:
        weights = model()
        torch.autograd.backward(weights, [ones] * len(weights))
        optimizer.step()
        optimizer.zero_grad()

    return step


def measured(*, quick: bool) -> dict[str, Any]:
    """Times one by one over batched, and µs per layer and step over the batch by hand."""
    count, rounds = (8, 10) if quick else (COUNT, 60)
    unit = 1e-6 * count
    rows = {}
    for kind in ("exp", "cayley"):
        columns = ("unconstrained", "by hand", "one by one", "batched", CONTROL)
        times = _times(SIZE, count, kind, columns, rounds)
        rows[kind] = {
            "microseconds": {how: statistics.median(times[how]) / unit for how in columns},
            "faster": ratio(times, "one by one", "batched"),
            "more": difference(times, "batched", "by hand", unit),
            "control": ratio(times, CONTROL, "batched"),
        }
    larger = []
    for size, layers in LARGER[: 1 if quick else None]:
        times = _times(size, 4 if quick else layers, "exp", ("one by one", "batched"), rounds // 3)
        larger.append({"size": size, "layers": layers, "faster": ratio(times, *times)})
    return {"layers": count, "size": SIZE, "rows": rows, "larger": larger}


def _times(size: int, count: int, kind: str, columns: tuple[str, ...], rounds: int) -> Times:
    steps = {how: step_of(Layers(size, count, how, kind)) for how in columns}
    for step in steps.values():
        step()
        step()
    return interleaved(steps, rounds)
