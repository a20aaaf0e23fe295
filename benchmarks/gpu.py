"""What needs a GPU to be known, in one program: times, hidden waits, CUDA graphs, precision.

Prints tables, keeps the numbers as JSON and, with --publish, puts them into docs/benchmarks.md
under the name of the GPU. Without one, --device cpu shows that the program works.
"""

import argparse
import functools
import json
import re
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
from .pairs import Step, Times, interleaved, ratio
from .peers import PEERS

DOCS = Path(__file__).resolve().parents[1] / "docs"
SLOW = 1e3  # ms from which a step is timed once
TINY = 1e-30  # a set of numbers may have no rounding
KEPT = DOCS / "bench-gpu.json"
LARGER = tuple(Case(Orthogonal(name), (n, n)) for name in ("exp", "cayley") for n in (1024, 2048))  # type: ignore[arg-type]


def once(step: Step, device: str) -> float:
    """Milliseconds of a step, by events of the device where it has them."""
    if device == "cpu":
        begin = time.perf_counter()
        step()
        return 1e3 * (time.perf_counter() - begin)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    step()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last))


def timed(steps: dict[str, Step], device: str, seconds: float) -> Times:
    """Milliseconds of each step; what is slow is timed once, the others in rounds."""
    clock = functools.partial(once, device=device)
    quick = {name: step for name, step in steps.items() if clock(step) <= SLOW}  # warms up, too
    times: Times = {name: [clock(step)] for name, step in steps.items()}
    spent = sum(times[name][0] for name in quick)
    rounds = min(60, max(3, int(1e3 * seconds / max(spent, 0.01))))
    for name, more in interleaved(quick, rounds, clock=clock).items():
        times[name] += more
    return times


def median(times: Times, name: str) -> float:
    return statistics.median(times[name])


# times ------------------------------------------------------------------------------------------


def kernels(cases: tuple[Case, ...], device: str, seconds: float) -> list[dict[str, Any]]:
    """Each map there and back, and its peers, over a product of the same size."""
    rows = []
    for case in tqdm(cases, desc="maps", leave=False):
        with torch.device(device):
            steps = {"product": product(case.shape, 20), "ours": there_and_back(case)}
            for name, make in PEERS.get(case.peers, {}).items():
                steps[name] = make(*case.shape[-2:])
            times = timed(steps, device, seconds)
        unit = median(times, "product") / 20
        rows.append({
            "case": str(case),
            "milliseconds": median(times, "ours"),
            "products": {name: median(times, name) / unit for name in steps if name != "product"},
        })  # fmt: skip
    return rows


def training_steps(rows: list[networks.Row], device: str, seconds: float) -> list[dict[str, Any]]:
    """The table of training steps of the engine: each column over the step without constraint."""
    found = []
    for row in tqdm(rows, desc="training steps", leave=False):
        task, plain = networks.Task(row, device), training.PLAIN
        steps: dict[str, Step] = {
            name: networks.unconstrained(task, "exp").step for name in (plain, training.CONTROL)
        }
        for kind in networks.MAPS:
            for name in ("no cache", *training.columns_of(row)):
                steps[f"{name} {kind}"] = networks.COLUMNS[name](task, kind).step
        times = timed(steps, device, seconds)
        found.append({
            **asdict(row),
            "milliseconds": median(times, plain),
            "over": {name: ratio(times, name, plain) for name in steps if name != plain},
        })  # fmt: skip
    return found


def batched(device: str, count: int, seconds: float) -> dict[str, dict[str, Any]]:
    """Microseconds per layer and step of many layers of 8 x 8."""
    columns = ("unconstrained", "by hand", "one by one", "batched")
    found = {}
    for kind in networks.MAPS:
        with torch.device(device):
            steps = {
                how: batches.step_of(batches.Layers(batches.SIZE, count, how, kind))
                for how in columns
            }
            times = timed(steps, device, seconds)
        found[kind] = {
            "microseconds": {how: 1e3 * median(times, how) / count for how in columns},
            "faster": ratio(times, "one by one", "batched"),
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
    # not its first announcement, that it is a prototype
    ours = [[w for w in part if "a synchronizing" in str(w.message)] for part in (there, back)]
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


def _shown(estimate: dict[str, Any] | None, digits: int = 3) -> str:
    if estimate is None:
        return ""
    between = (
        "" if estimate["low"] is None
        else f" ({estimate['low']:.{digits}f} to {estimate['high']:.{digits}f})"
    )  # fmt: skip
    return f"{estimate['median']:.{digits}f}{between}"


def lines(found: dict[str, Any]) -> list[str]:
    """Markdown of a run."""
    maps = [
        [
            f"`{row['case'].rsplit(', ', 1)[0]}`, {row['case'].rsplit(', ', 1)[1]}",
            f"{row['milliseconds']:.2f}",
            f"{row['products']['ours']:.0f}",
            ", ".join(f"{name}: {n:.0f}" for name, n in row["products"].items() if name != "ours"),
        ]
        for row in found["kernels"]
    ]
    trained = [
        [
            f"{row['hidden']}, {row['length']}, {row['batch']}, {row['micro_batches']}",
            kind,
            *(_shown(row["over"].get(f"{name} {kind}")) for name in networks.COLUMNS),
            _shown(row["over"][training.CONTROL]),
            f"{row['milliseconds']:.1f}",
        ]
        for row in found["steps"]
        for kind in networks.MAPS
    ]
    many = [
        [kind, *(f"{us:.1f}" for us in row["microseconds"].values()), _shown(row["faster"], 1)]
        for kind, row in found["batched"].items()
    ]
    asked = found["sets"]
    kinds: dict[str, list[str]] = {}
    for name, row in asked.items():
        w, g = row["waits"], row.get("graph", "not tried: it waits")
        kind, map_ = name[: name.index("(")], re.search(r"map='\w+'", name)
        shown = f"`{kind}({map_[0]})`" if map_ else f"`{kind}`"
        alike = kinds.setdefault(f"{w['there']} | {w['back']} | {g}", [])
        alike += [shown] if shown not in alike else []
    return [
        f"### {found['device']}\n",
        f"Command: `{found['command']}`, with torch {found['machine']['torch']}. Single precision,",
        "no TF32; medians, by events of the device, in rounds of random order. A value of each map",
        "and its gradient, in ms and over a product of the same size; where a product takes less",
        "than its launch, so does every operation: there the number of launches is compared.\n",
        table(["f, shape", "ms", "products of this size", "others"], maps),
        "A training step of a recurrent network over the same step without a constraint:\n",
        table(
            ["hidden, steps, batch, micro-batches", "map", *networks.COLUMNS, "control A/A",
             "unconstrained, ms"], trained,
        ),
        f"{found['layers']} layers of 8 x 8, µs per layer and step:\n",
        table(
            ["map", *next(iter(found["batched"].values()))["microseconds"], "times faster"], many
        ),
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
        "steps": lambda: training_steps(
            training.QUICK if chosen.quick else training.ROWS, device, 20 * seconds
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
