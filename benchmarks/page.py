"""Results as a page: what the terminal shows and what the docs keep."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .goals import goals, shown

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
INTRO = """\
All columns of a table are timed in one run: process CPU time, one thread, the columns in an order
drawn anew for each round. A number is the median over the rounds of the quotient (or difference)
within a round, in brackets its distribution-free 95 % interval. A goal "at most r" holds when the
interval reaches down to r. In the control A/A the same thing is timed against itself: where its
median is off by more than 1 %, the goal is void.
"""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def page(results: dict[str, Any]) -> str:
    """Markdown of the parts that ``results`` has; no date, so that it changes only with them."""
    machine = results["machine"]
    about = "\n".join(f"- {key}: {value}" for key, value in machine.items())
    parts = [INTRO, f"Command: `{results['command']}`\n\n{about}\n"]
    if results["quick"]:
        parts.insert(0, "A quick run: toy sizes, which show that the program works.\n")
    sections = {
        "training": _training,
        "reads": _reads,
        "changes": _changes,
        "memory": _memory,
        "scale": _scale,
    }
    for name, section in sections.items():
        if name in results:
            parts += section(results[name])
    rows = [(g.what, g.measured, g.limit, g.verdict) for g in goals(results)]
    parts += ["### Goals\n", table(("what", "measured", "at most", ""), rows)]
    return "\n".join(parts)


def replaced(text: str, part: str, body: str) -> str:
    """``text`` of docs/benchmarks.md with another body between the marks of a part."""
    begin, end = f"<!-- {part}: rendered by benchmarks/{part}.py -->", f"<!-- {part}: end -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{body}\n{end}{rest.split(end)[1]}"


def publish(part: str, body: str) -> None:
    """Put what a run found into docs/benchmarks.md."""
    PAGE.write_text(replaced(PAGE.read_text(), part, body))


def _training(part: dict[str, Any]) -> Iterator[str]:
    yield "### A training step\n"
    yield (
        "A recurrent network reads its matrix once per time step. Times over the same step with\n"
        "an unconstrained matrix. `no cache` and `torch cached()` are torch's `orthogonal` with\n"
        "torch's maps; `ours` and `by hand` (the map and its derivative once per optimiser step,\n"
        "written out) share one map, so their quotient is the price of the engine alone.\n"
    )
    names = ["no cache", "torch cached()", "ours", "ours, deferred", "by hand"]
    rows = []
    for row in part["rows"]:
        size = f"{row['hidden']}, {row['length']}, {row['batch']}, {row['micro_batches']}"
        for kind, columns in row["columns"].items():
            cells = [shown(columns[n]) if n in columns else "" for n in names]
            slow = columns["no cache"]
            cells[0] = f"{slow['median']:.1f} ({slow['pairs']} pair{'s' * (slow['pairs'] > 1)})"
            control = shown(row["control"])
            quotient = shown(row["to_by_hand"][kind])
            rows.append([size, kind, *cells, quotient, control, f"{row['milliseconds']:.1f}"])
    header = ["hidden, steps, batch, micro-batches", "map", *names, "ours / by hand"]
    yield table([*header, "control A/A", "unconstrained, ms"], rows)


def _reads(part: dict[str, Any]) -> Iterator[str]:
    yield "### A read of a value that has not changed\n"
    control = shown(part["control"])
    yield f"`nn.Linear.weight` takes {part['plain']:.2f} µs (control A/A {control}).\n"
    rows = [
        [name, f"{row['microseconds']:.2f}", shown(row["more"], 2), shown(row["times"], 2)]
        for name, row in part["rows"].items()
    ]
    yield table(["f", "µs", "µs more than plain", "times plain"], rows)


def _changes(part: dict[str, Any]) -> Iterator[str]:
    yield "### The engine's own work when x has changed\n"
    yield (
        f"{part['layers']} layers of 4 x 4, each read once per step (forward, backward, SGD): µs\n"
        f"per layer and step. Unconstrained: {part['plain']:.1f}. Control A/A (ours, callable):\n"
        f"{shown(part['control'])}.\n"
    )
    rows = [
        [name, f"{row['inline']:.1f}", f"{row['ours']:.1f}", shown(row["more"], 1)]
        for name, row in part["rows"].items()
    ]
    yield table(["f", "f inline", "ours", "the engine"], rows)


def _memory(part: dict[str, Any]) -> Iterator[str]:
    yield "### Memory\n"
    peak = part["peak"]
    yield (
        f"MiB that a step adds at its peak, {peak['layers']} layers of {peak['size']} x\n"
        f"{peak['size']}, each read once (one y per layer: {peak['one_y_per_layer']:.3g} MiB), by\n"
        "torch's profiler.\n"
    )
    names = ["unconstrained", "map at each read", "ours"]
    rows = [
        [kind, count, *(f"{found[n]:.3g}" for n in names)]
        for kind, by_count in peak["maps"].items()
        for count, found in by_count.items()
    ]
    yield table(["map", "micro-batches", *names], rows)
    kept = part["growth"].items()
    rows = [
        [f"{int(n):,}", *(str(v) for v in (f["tensors"], f["bytes"], f["objects"]))]
        for n, f in kept
    ]
    yield table(["after steps", "live tensors", "their bytes", "objects of Python"], rows)


def _scale(part: dict[str, Any]) -> Iterator[str]:
    yield "### Many layers\n"
    held = part["held"]
    yield (
        "One model, every layer 8 x 8, `Orthogonal('cayley')`: ms. Between steps a constrained\n"
        f"layer adds {held['objects']:.1f} KiB of Python objects and {held['tensors']:.2f} KiB of\n"
        "tensors (map state). A step of an optimiser of other parameters takes\n"
        f"{part['elsewhere']:.2f} µs longer for each of them that holds a value.\n"
    )
    names = ["registration", "unconstrained", "inline", "ours"]
    rows = []
    for row in part["rows"]:
        engine = 1e6 * (row["ours"] - row["inline"]) / row["layers"]
        times = [f"{1e3 * row[n]:.1f}" for n in names]
        rows.append([f"{row['layers']:,}", *times, f"{engine:.0f}"])
    rows.append(["exponent", *(f"{part['exponent'][n]:.2f}" for n in names), ""])
    header = ["layers", "registration", "step, unconstrained", "step, f inline", "step, ours"]
    yield table([*header, "the engine, µs per layer"], rows)
    if "batched" in part:
        yield from _batched(part["batched"])


def _batched(part: dict[str, Any]) -> Iterator[str]:
    size = part["size"]
    yield (
        f"{part['layers']} layers of {size} x {size}, each read once per step (forward, backward,\n"
        "SGD): µs per layer and step. `by hand` stacks the parameters, evaluates f once and\n"
        "unbinds the result, with the bases stacked beforehand; `batched` is `batch(model)`.\n"
    )
    names = ["unconstrained", "by hand", "one by one", "batched"]
    rows = [
        [
            kind,
            *(f"{row['microseconds'][n]:.1f}" for n in names),
            shown(row["faster"], 1),
            shown(row["more"], 1),
            shown(row["control"]),
        ]
        for kind, row in part["rows"].items()
    ]
    header = ["map", *names, "times faster", "µs more than by hand", "control A/A"]
    yield table(header, rows)
    larger = [f"{r['size']} x {r['size']}: {shown(r['faster'], 1)}" for r in part["larger"]]
    yield f"Times faster at larger sizes (exp): {', '.join(larger)}.\n"
