"""What needs a GPU to be known, in one program: times of the maps, hidden waits, CUDA graphs, bf16.

Prints tables, keeps the numbers as JSON and, with --publish, puts them into docs/benchmarks.md
under the name of the GPU. Without one, --device cpu shows that the program works.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from constrainedparams import (
    Constraint,
    Interval,
    Orthogonal,
    PositiveDefinite,
    SpectralBall,
    Stiefel,
    register_constrained_parameter,
    violations,
)
from constrainedparams import (
    statistics as counts,
)

from .cases import CASES, QUICK, Case, product, there_and_back
from .engine import machine
from .page import publish, table
from .pairs import Step

DOCS = Path(__file__).resolve().parents[1] / "docs"
SETS: dict[str, tuple[Constraint, tuple[int, ...]]] = {
    "exp": (Orthogonal(), (256, 256)),
    "exp, tall": (Stiefel(), (1024, 32)),
    "cayley": (Orthogonal("cayley"), (256, 256)),
    "cayley, tall": (Stiefel("cayley"), (1024, 32)),
    "polar": (Orthogonal("polar"), (256, 256)),
    "L L^T": (PositiveDefinite(), (256, 256)),
    "spectral ball": (SpectralBall(), (256, 256)),
    "interval": (Interval(-1.0, 1.0), (256, 256)),
}


def timed(step: Step, device: str, rounds: int) -> float:
    """Median milliseconds of a step, by events of the device where it has them."""
    for _ in range(3):
        step()
    found = []
    for _ in range(rounds):
        if device == "cpu":
            start = time.perf_counter()
            step()
            found.append(1e3 * (time.perf_counter() - start))
            continue
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end))
    return statistics.median(found)


def kernels(cases: tuple[Case, ...], device: str, rounds: int) -> list[dict[str, Any]]:
    """Each map there and back, over a product of the same size."""
    rows = []
    for case in tqdm(cases, desc="maps", leave=False):
        with torch.device(device):
            one, step = product(case.shape, 20), there_and_back(case)
        unit = timed(one, device, rounds) / 20
        spent = timed(step, device, rounds)
        rows.append({"case": str(case), "milliseconds": spent, "products": spent / unit})
    return rows


def layer_of(name: str, device: str, dtype: torch.dtype = torch.float32) -> nn.Linear:
    constraint, (n, k) = SETS[name]
    layer = nn.Linear(k, n, bias=False, device=device, dtype=dtype)
    return register_constrained_parameter(layer, "weight", constraint)


def waits(name: str, device: str) -> str:
    """Whether one step of training makes the host wait for the device."""
    if device == "cpu":
        return "not a GPU"
    layer = layer_of(name, device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    batch = torch.randn(8, layer.in_features, device=device)
    layer(batch).square().sum().backward()  # what is done once: libraries, workspaces
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(batch).square().sum().backward()
        optimizer.step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def graph(name: str, device: str) -> str:
    """Whether a forward and backward pass can be captured, and its replay follows x."""
    if device == "cpu":
        return "not a GPU"
    constraint, shape = SETS[name]
    start = constraint.sample(shape, device=device)
    found = constraint.right_inverse(start)
    x, state = found if isinstance(found, tuple) else (found, {})
    x.requires_grad_()
    g = torch.randn(shape, device=device)

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        y = constraint(x, **state)
        return y.detach(), torch.autograd.grad(y, x, g)[0]

    try:
        captured: Any = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream()
        with torch.cuda.stream(aside):
            step()
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(captured):
            y, dx = step()
        with torch.no_grad():
            x.add_(0.1 * torch.randn_like(x))
        captured.replay()
        again, expected = step()
        same = torch.allclose(y, again, atol=1e-5) and torch.allclose(dx, expected, atol=1e-3)
        return "replays" if same else "replays another value"
    except Exception as error:  # what a capture refuses is an answer
        torch.cuda.synchronize()
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def half(name: str, device: str) -> float:
    """Distance from the set of a bfloat16 weight."""
    layer = layer_of(name, device, torch.bfloat16)
    return float(violations(layer)["weight"])


def recurrent(device: str, rounds: int, hidden: int, length: int) -> dict[str, Any]:
    """A training step of a recurrent network over the same step without a constraint."""

    def step_of(constrain: Callable[[nn.Linear], Any]) -> tuple[Step, nn.Linear]:
        torch.manual_seed(0)
        matrix = nn.Linear(hidden, hidden, bias=False, device=device)
        nn.init.orthogonal_(matrix.weight)
        constrain(matrix)
        optimizer = torch.optim.SGD(matrix.parameters(), lr=1e-3)
        drive = torch.randn(length, 32, hidden, device=device)

        def step() -> None:
            h = torch.zeros_like(drive[0])
            for each in drive:
                h = torch.tanh(each + matrix(h))
            h.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step, matrix

    def ours(layer: nn.Linear) -> None:
        register_constrained_parameter(layer, "weight", Orthogonal())

    plain, _ = step_of(lambda _: None)
    constrained, layer = step_of(ours)
    torchs, _ = step_of(nn.utils.parametrizations.orthogonal)
    unit = timed(plain, device, rounds)
    spent = timed(constrained, device, rounds)
    record = counts(layer)["weight"]
    return {
        "hidden": hidden,
        "length": length,
        "milliseconds": unit,
        "ours": spent / unit,
        "torch, map at every read": timed(torchs, device, 3) / unit,
        "evaluations per step": record.evaluations / (rounds + 3),
    }


def lines(found: dict[str, Any]) -> list[str]:
    rows = [
        [row["case"], f"{row['milliseconds']:.3f}", f"{row['products']:.1f}"]
        for row in found["kernels"]
    ]
    sets = [
        [name, row["waits"], row["graph"], f"{row['bf16']:.1e}"]
        for name, row in found["sets"].items()
    ]
    net = found["recurrent"]
    steps = [[key, f"{value:.3g}"] for key, value in net.items()]
    return [
        f"### {found['device']}\n",
        f"Command: `{found['command']}`\n",
        table(["map, shape", "ms there and back", "products of the same size"], rows),
        table(["map", "waits of a training step", "CUDA graph", "bf16: distance"], sets),
        table(["recurrent network, a training step", ""], steps),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="small sizes, a few seconds")
    parser.add_argument("--output", type=Path, default=Path("results/bench-gpu.json"))
    parser.add_argument("--publish", action="store_true", help="put the run into docs/")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is available here. --device cpu only shows that the program works.")
    device, rounds = chosen.device, 5 if chosen.quick else 50
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU, which measures nothing here"
    hidden, length = (16, 8) if chosen.quick else (256, 200)
    found: dict[str, Any] = {
        "command": "make bench-gpu",
        "device": name,
        "machine": machine(),
        "kernels": kernels(QUICK if chosen.quick else CASES, device, rounds),
        "sets": {
            key: {
                "waits": waits(key, device),
                "graph": graph(key, device),
                "bf16": half(key, device),
            }
            for key in SETS
        },
        "recurrent": recurrent(device, rounds, hidden, length),
    }
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(lines(found)))
    if chosen.publish:
        (DOCS / "bench-gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        publish("gpu", "\n".join(lines(found)))


if __name__ == "__main__":
    main()
