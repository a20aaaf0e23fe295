"""Many small matrices: each evaluated alone, as a batch, and as a batch written out by hand."""

import statistics
from typing import Any

import torch
from torch import Tensor, nn

from constrainedparams import Orthogonal, batch, register_constrained_parameter

from .pairs import Step, difference, interleaved, ratio

SIZE = 8
CONTROL = "batched, again"


class Layers(nn.Module):
    """Every matrix is read once in a step; ``how`` says what y is and who evaluates it."""

    def __init__(self, count: int, how: str, kind: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(SIZE, SIZE, bias=False) for _ in range(count))
        self.function = Orthogonal(kind)
        self.by_hand = how == "by hand"
        self.bases = torch.eye(SIZE).expand(count, SIZE, SIZE).contiguous()
        for layer in self.layers:
            with torch.no_grad():
                layer.weight.copy_(torch.randn(SIZE, SIZE) / SIZE)
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
    ones = torch.ones(SIZE, SIZE)

    def step() -> None:
        weights = model()
        torch.autograd.backward(weights, [ones] * len(weights))
        optimizer.step()
        optimizer.zero_grad()

    return step


def measured(*, quick: bool) -> dict[str, Any]:
    """Times one by one over batched, and µs per layer and step over the batch by hand."""
    count, rounds = (8, 10) if quick else (256, 60)
    unit = 1e-6 * count
    rows = {}
    for kind in ("exp", "cayley"):
        columns = ("unconstrained", "by hand", "one by one", "batched", CONTROL)
        steps = {how: step_of(Layers(count, how, kind)) for how in columns}
        for step in steps.values():
            step()
            step()
        times = interleaved(steps, rounds)
        rows[kind] = {
            "microseconds": {how: statistics.median(times[how]) / unit for how in columns},
            "faster": ratio(times, "one by one", "batched"),
            "more": difference(times, "batched", "by hand", unit),
            "control": ratio(times, CONTROL, "batched"),
        }
    return {"layers": count, "size": SIZE, "rows": rows}
