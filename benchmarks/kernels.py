"""What a value of each map and its gradient cost, in products of matrices of the same size.

Prints tables with goals, beside the libraries that do the same job, and how cost grows with size;
keeps the numbers as JSON. Times are medians over interleaved rounds of one run, one thread.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from constrainedparams import Orthogonal, register_constrained_parameter

from .cases import CASES, QUICK, Case, operations, product, repeats, there_and_back
from .engine import machine
from .page import publish
from .pairs import Step, interleaved, ratio, rounds_within
from .peers import PEERS
from .plots import draw

DOCS = Path(__file__).resolve().parents[1] / "docs"
KEPT = DOCS / "bench-kernels.json"
SQUARE, TALL = (32, 64, 128, 256, 512, 1024, 2048), (1, 4, 16, 64, 256, 1024)


def measured(case: Case, seconds: float) -> dict[str, Any]:
    """Ours over one product; then the peers in rounds of their own: their gigabytes slow ours."""
    count = repeats(case.shape)
    n, k = case.shape[-2:]
    peers = {name: make(n, k) for name, make in PEERS.get(case.peers, {}).items()}
    found = {}
    for steps in ({"ours": there_and_back(case)}, peers):
        both: dict[str, Step] = {"product": product(case.shape, count), **steps}
        times = interleaved(both, rounds_within(seconds, both, least=7, most=200)) if steps else {}
        times["product"] = [t / count for t in times.get("product", [])]
        found |= {name: ratio(times, name, "product") for name in steps}
    return {
        "goal": case.goal,
        "products": products(case) if case.counted else None,
        "times": found,
    }


def products(case: Case) -> float:
    step = there_and_back(case)
    with FlopCounterMode(display=False) as count:
        step()
    return float(count.get_total_flops() / (2 * operations(case.shape)))


# how cost grows ---------------------------------------------------------------------------------


def growth(sizes: list[Case], seconds: float) -> dict[str, Any]:
    """Milliseconds by size, and the slope of their logarithms over the larger half."""
    steps = {str(case): there_and_back(case) for case in sizes}
    rounds = rounds_within(seconds, steps, least=3, most=20)
    times = {name: min(v) for name, v in interleaved(steps, rounds).items()}
    lengths = [case.shape for case in sizes]
    return {
        "shapes": lengths,
        "milliseconds": [1e3 * times[str(case)] for case in sizes],
        "slope": _slope(sizes, [times[str(case)] for case in sizes]),
    }


def _slope(sizes: list[Case], seconds: list[float]) -> float:
    """Of log(time) over log(what varies), by the last three sizes."""
    varies = [c.shape[-1] for c in sizes][-3:]
    x, y = [math.log(v) for v in varies], [math.log(t) for t in seconds[-3:]]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return above / sum((a - mx) ** 2 for a in x)


def families(quick: bool) -> dict[str, list[Case]]:
    square = SQUARE[:3] if quick else SQUARE
    tall, n = (TALL[:4], 256) if quick else (TALL, 1024)
    found = {}
    for name in ("exp", "cayley", "polar", "householder"):
        constraint = Orthogonal(name)  # type: ignore[arg-type]
        found[f"{name}, n x n"] = [Case(constraint, (m, m)) for m in square]
        found[f"{name}, {n} x k"] = [Case(constraint, (n, k)) for k in tall]
    return found


# one large layer --------------------------------------------------------------------------------


def tall_layer(shape: tuple[int, int]) -> dict[str, float]:
    """Seconds of registration with the first step, and memory over that of the weight."""
    layer = nn.Linear(shape[1], shape[0], bias=False)
    start = time.perf_counter()
    register_constrained_parameter(layer, "weight", Orthogonal())
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    batch = torch.randn(4, shape[1])
    layer(batch).square().sum().backward()
    optimizer.step()
    seconds = time.perf_counter() - start
    size = 4 * shape[0] * shape[1]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        layer(batch).square().sum().backward()
        optimizer.step()
    held = peak = 0
    for event in prof.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    stored = sum(t.numel() * t.element_size() for t in layer.state_dict().values())
    return {"seconds": seconds, "stored": stored / size, "peak": peak / size}


# the page ---------------------------------------------------------------------------------------


def shown(estimate: dict[str, Any]) -> str:
    between = (
        "" if estimate["low"] is None else f" ({estimate['low']:.1f} to {estimate['high']:.1f})"
    )
    return f"{estimate['median']:.1f}{between}"


def lines(found: dict[str, Any]) -> list[str]:
    """Markdown of a run."""
    out = [
        "Times of one value and its gradient, with a base point where the map has one, over one",
        "product of the same size (n k^2 for n x k), single precision, one thread; medians (95 %",
        "intervals) within one run. `counted`: their number, where all work is products.",
        "",
        f"Command: `{found['command']}`",
        "",
        *(f"- {key}: {value}" for key, value in found["machine"].items()),
        "",
        "| f, shape | counted | ours | at most | | others |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found["cases"].items():
        ours, goal = row["times"]["ours"], row["goal"]
        low = ours["median"] if ours["low"] is None else ours["low"]
        verdict = "" if goal is None else "holds" if low <= goal else "missed"
        others = ", ".join(
            f"{peer}: {e['median']:.0f}" for peer, e in row["times"].items() if peer != "ours"
        )
        count = "" if row["products"] is None else f"{row['products']:.1f}"
        cells = [f"`{name.rsplit(', ', 1)[0]}`, {name.rsplit(', ', 1)[1]}", count, shown(ours)]
        out.append("| " + " | ".join([*cells, f"{goal or ''}", verdict, others]) + " |")
    if not found["growth"]:  # chosen cases only
        return out
    out += ["", "| how cost grows | slope | " + "milliseconds |", "|---|---|---|"]
    for name, part in found["growth"].items():
        sizes = ", ".join(
            f"{s[-1]}: {t:.3g}" for s, t in zip(part["shapes"], part["milliseconds"], strict=True)
        )
        out.append(f"| {name} | {part['slope']:.2f} | {sizes} |")
    out += ["", "![How cost grows with size](pictures/kernels.png)"]
    out += ["", "| `Orthogonal()` on one tall layer | registration and first step, s | "
            "kept / weight | peak of a step / weight |", "|---|---|---|---|"]  # fmt: skip
    for name, row in found["tall"].items():
        out.append(f"| {name} | {row['seconds']:.2f} | {row['stored']:.1f} | {row['peak']:.1f} |")
    return out


def run(chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure what is chosen, and keep it."""
    torch.set_num_threads(1)
    seconds = 0.5 if chosen.quick else 10.0
    cases = QUICK if chosen.quick else CASES
    if chosen.only:
        cases = tuple(case for case in cases if chosen.only in str(case))
    command = "make bench-kernels" + (" ARGS=--quick" if chosen.quick else "")
    if chosen.only:
        command = f'make bench-kernels ARGS="--only {chosen.only}"'
    found: dict[str, Any] = {"command": command, "machine": machine(), "cases": {}, "growth": {}}
    for case in tqdm(cases, desc="kernels", leave=False):
        found["cases"][str(case)] = measured(case, seconds)
    grows = {} if chosen.only else families(chosen.quick)
    for name, sizes in tqdm(grows.items(), desc="growth", leave=False):
        found["growth"][name] = growth(sizes, seconds)
    shapes = [(512, 8)] if chosen.quick else [(4096, 16), (30000, 50)]
    shapes = [] if chosen.only else shapes
    found["tall"] = {f"{n} x {k}": tall_layer((n, k)) for n, k in shapes}
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(found, indent=1) + "\n")
    return found


def with_kept(found: dict[str, Any]) -> dict[str, Any]:
    """A run of some cases with the rows that docs/ has of the others, in the order of ``CASES``."""
    kept = json.loads(KEPT.read_text())
    both = {**kept["cases"], **found["cases"]}
    return {**kept, "cases": {str(case): both[str(case)] for case in CASES if str(case) in both}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, a few seconds")
    parser.add_argument("--only", help="cases whose name contains this, and no more than those")
    parser.add_argument("--output", type=Path, default=Path("results/bench-kernels.json"))
    parser.add_argument("--publish", action="store_true", help="put the run into docs/")
    parser.add_argument("--read", type=Path, help="show a kept run instead of measuring")
    chosen = parser.parse_args()
    found = json.loads(chosen.read.read_text()) if chosen.read else run(chosen)
    print("\n".join(lines(found)))
    if chosen.publish:
        found = with_kept(found) if chosen.only else found
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
        draw(found)
        publish("kernels", "\n".join(lines(found)) + "\n")


if __name__ == "__main__":
    main()
