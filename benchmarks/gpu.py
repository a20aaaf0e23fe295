"""What needs a GPU to be known, in one program: times, hidden waits, CUDA graphs, precision.

Prints tables, keeps the numbers as JSON and, with --publish, puts them into docs/benchmarks.md
under the name of the GPU. Without one, --device cpu shows that the program works.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from constrainedparams import Constraint, Orthogonal
from constrainedparams.testing import ROWS
from constrainedparams.testing import Case as Row

from . import batches, networks, training
from .cases import CASES, QUICK, Case, product, there_and_back
from .engine import machine
from .page import publish, table
from .pairs import Step
from .peers import PEERS

DOCS = Path(__file__).resolve().parents[1] / "docs"
TINY = 1e-30  # a set of numbers may have no rounding
KEPT = DOCS / "bench-gpu.json"
LARGER = tuple(Case(Orthogonal(name), (n, n)) for name in ("exp", "cayley") for n in (1024, 2048))  # type: ignore[arg-type]


def timed(step: Step, device: str, seconds: float = 0.5) -> float:
    """Median milliseconds of a step, by events of the device where it has them."""

    def once() -> float:
        if device == "cpu":
            start = time.perf_counter()
            step()
            return 1e3 * (time.perf_counter() - start)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end))

    once()
    first = once()
    more = 0 if first > 1e3 else max(3, min(50, int(1e3 * seconds / first)))
    return statistics.median([first, *(once() for _ in range(more))])


# times ------------------------------------------------------------------------------------------


def kernels(cases: tuple[Case, ...], device: str, seconds: float) -> list[dict[str, Any]]:
    """Each map there and back, and its peers, over a product of the same size."""
    rows = []
    for case in tqdm(cases, desc="maps", leave=False):
        with torch.device(device):
            one, step = product(case.shape, 20), there_and_back(case)
            peers = {
                name: make(*case.shape[-2:]) for name, make in PEERS.get(case.peers, {}).items()
            }
            unit = timed(one, device, seconds) / 20
            row = {"case": str(case), "milliseconds": timed(step, device, seconds), "unit": unit}
            row["peers"] = {name: timed(peer, device, seconds) for name, peer in peers.items()}
        rows.append(row)
    return rows


def steps(rows: list[networks.Row], device: str, seconds: float) -> list[dict[str, Any]]:
    """The table of training steps of the engine: milliseconds of each column."""
    found = []
    for row in tqdm(rows, desc="training steps", leave=False):
        task = networks.Task(row, device)
        entry: dict[str, Any] = {**asdict(row), "columns": {}}
        plain = networks.unconstrained(task, "exp").step
        entry["unconstrained"] = timed(plain, device, seconds)
        entry["control"] = timed(plain, device, seconds)
        for kind in networks.MAPS:
            entry["columns"][kind] = {
                name: timed(networks.COLUMNS[name](task, kind).step, device, seconds)
                for name in ("no cache", *training.columns_of(row))
            }
        found.append(entry)
    return found


def batched(device: str, count: int, seconds: float) -> dict[str, dict[str, float]]:
    """Microseconds per layer and step of many layers of 8 x 8."""
    columns = ("unconstrained", "by hand", "one by one", "batched")
    found = {}
    for kind in networks.MAPS:
        with torch.device(device):
            models = {how: batches.Layers(batches.SIZE, count, how, kind) for how in columns}
            found[kind] = {
                how: 1e3 * timed(batches.step_of(model), device, seconds) / count
                for how, model in models.items()
            }
    return found


# what the host waits for, and what can be captured ----------------------------------------------


def start(row: Row, device: str, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    """x and the state of a sample, with some noise on x."""
    found = row.constraint.right_inverse(row.constraint.sample(row.shape, device=device))
    x, state = found if isinstance(found, tuple) else (found, {})
    x = (x + 0.1 * torch.randn_like(x)).to(dtype)
    return x, {name: value.to(torch.float32) for name, value in state.items()}


@contextmanager
def counted() -> Iterator[list[Any]]:
    """The waits of the host for the device, as warnings."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def waits(row: Row, device: str) -> dict[str, int]:
    """How often one value, and one gradient, make the host wait."""
    x, state = start(row, device, torch.float32)
    x.requires_grad_()
    y = row.constraint(x, **state)
    g = torch.randn_like(y)
    torch.autograd.grad(y, x, g)  # what is done once: libraries, workspaces
    if device == "cpu":
        return {"there": 0, "back": 0}
    with counted() as there:
        y = row.constraint(x, **state)
    with counted() as back:
        torch.autograd.grad(y, x, g)
    ours = [[w for w in part if "synchroniz" in str(w.message)] for part in (there, back)]
    return {"there": len(ours[0]), "back": len(ours[1])}


def graph(row: Row, device: str) -> str:
    """Whether a value and its gradient can be captured, and the replay follows x."""
    if device == "cpu":
        return "not a GPU"
    x, state = start(row, device, torch.float32)
    x.requires_grad_()
    g = torch.randn_like(row.constraint(x, **state))

    def step() -> tuple[Tensor, Tensor]:
        y = row.constraint(x, **state)
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


def off(constraint: Constraint, y: Tensor) -> float:
    """Distance from the set over what is rounding in the dtype of y."""
    return float(constraint.residual(y).max()) / max(constraint.tolerance(y), TINY)


def half(row: Row, device: str) -> float:
    x, state = start(row, device, torch.bfloat16)
    return off(row.constraint, row.constraint(x, **state))


def with_tf32(row: Row, device: str) -> float:
    """The same where the program lets products of single precision be computed in TF32."""
    x, state = start(row, device, torch.float32)
    torch.set_float32_matmul_precision("high")
    try:
        y = row.constraint(x, **state)
    finally:
        torch.set_float32_matmul_precision("highest")
    return off(row.constraint, y)


def sets(rows: list[Row], device: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    asked: dict[str, Callable[[Row, str], Any]] = {
        "waits": waits, "bf16": half, "tf32": with_tf32, "graph": graph,
    }  # fmt: skip
    for key, ask in asked.items():  # captures last: one that fails may leave traces
        for row in tqdm(rows, desc=key, leave=False):
            if torch.float32 in row.dtypes:
                entry = found.setdefault(str(row), {})
                if key != "graph" or not any(entry["waits"].values()):
                    entry[key] = ask(row, device)
    return found


# the page ---------------------------------------------------------------------------------------


def lines(found: dict[str, Any]) -> list[str]:
    """Markdown of a run."""
    maps = [
        [
            f"`{row['case'].rsplit(', ', 1)[0]}`, {row['case'].rsplit(', ', 1)[1]}",
            f"{row['milliseconds']:.2f}",
            f"{row['milliseconds'] / row['unit']:.0f}",
            ", ".join(f"{name}: {ms / row['unit']:.0f}" for name, ms in row["peers"].items()),
        ]
        for row in found["kernels"]
    ]
    training_steps = [
        [
            f"{row['hidden']}, {row['length']}, {row['batch']}, {row['micro_batches']}",
            kind,
            *(
                f"{columns[name] / row['unconstrained']:.3f}" if name in columns else ""
                for name in networks.COLUMNS
            ),
            f"{row['control'] / row['unconstrained']:.3f}",
            f"{row['unconstrained']:.1f}",
        ]
        for row in found["steps"]
        for kind, columns in row["columns"].items()
    ]
    many = [
        [kind, *(f"{us:.1f}" for us in row.values()), f"{row['one by one'] / row['batched']:.1f}"]
        for kind, row in found["batched"].items()
    ]
    asked = found["sets"]
    kinds: dict[str, list[str]] = {}
    for name, row in asked.items():
        w, g = row["waits"], row.get("graph", "not tried: it waits")
        kinds.setdefault(f"{w['there']} | {w['back']} | {g}", []).append(f"`{name}`")
    return [
        f"### {found['device']}\n",
        f"Command: `{found['command']}`, with torch {found['machine']['torch']}. Single precision,",
        "no TF32; medians, by events of the device.\n",
        table(["f, shape", "ms there and back", "products of this size", "others"], maps),
        "A training step of a recurrent network over the same step without a constraint:\n",
        table(
            ["hidden, steps, batch, micro-batches", "map", *networks.COLUMNS, "control A/A",
             "unconstrained, ms"], training_steps,
        ),
        f"{found['layers']} layers of 8 x 8, µs per layer and step:\n",
        table(["map", *next(iter(found["batched"].values())), "times faster"], many),
        "How often the host waits for the device in one value, and in one gradient, and whether",
        "both can be captured in a CUDA graph whose replays follow x:\n",
        "| waits, value | waits, gradient | CUDA graph | sets |\n|---|---|---|---|",
        *(f"| {kind} | {', '.join(names)} |" for kind, names in sorted(kinds.items())),
        "",
        "Largest distance of y from its set, over what is rounding in its dtype: "
        f"{max(row['bf16'] for row in asked.values()):.2f} of bfloat16 weights, "
        f"{max(row['tf32'] for row in asked.values()):.2f} of float32 weights where the program "
        "allows TF32.",
        "",
    ]  # fmt: skip


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure, and keep what is done at once."""
    device, seconds = chosen.device, 0.02 if chosen.quick else 0.4
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU, which measures nothing here"
    found: dict[str, Any] = {"command": "make bench-gpu", "device": name, "machine": machine()}
    layers = 4 if chosen.quick else batches.COUNT
    parts: dict[str, Callable[[], Any]] = {
        "sets": lambda: sets(list(ROWS)[:: 20 if chosen.quick else 1], device),
        "kernels": lambda: kernels(QUICK if chosen.quick else CASES + LARGER, device, seconds),
        "layers": lambda: layers,
        "batched": lambda: batched(device, layers, seconds),
        "steps": lambda: steps(
            training.QUICK if chosen.quick else training.ROWS, device, 2 * seconds
        ),
    }
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    for part, measure in parts.items():
        found[part] = measure()
        chosen.output.write_text(json.dumps(found, indent=1) + "\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="small sizes, a few seconds")
    parser.add_argument("--output", type=Path, default=Path("results/bench-gpu.json"))
    parser.add_argument("--read", type=Path, help="show a kept run instead of measuring")
    parser.add_argument("--publish", action="store_true", help="put the run into docs/")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not (chosen.read or torch.cuda.is_available()):
        parser.error("no GPU is available here. --device cpu only shows that the program works.")
    found = json.loads(chosen.read.read_text()) if chosen.read else run(chosen)
    print("\n".join(lines(found)))
    if chosen.publish:
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
        publish("gpu", "\n".join(lines(found)))


if __name__ == "__main__":
    main()
