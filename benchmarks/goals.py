"""What the engine has promised about its cost, and whether a run bears it out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CONTROL = (0.99, 1.01)  # where the same thing timed twice must agree with itself


@dataclass(frozen=True)
class Goal:
    """``measured`` at most ``limit``; the verdict allows for the interval of the measurement."""

    what: str
    measured: str
    limit: str
    verdict: str  # "holds", "missed", or "void" with a control out of bounds


def void(control: dict[str, Any]) -> bool:
    """Whether noise was too large: an A/A control that left its bounds."""
    return not CONTROL[0] <= control["median"] <= CONTROL[1]


def shown(estimate: dict[str, Any], digits: int = 3) -> str:
    """A median, with its interval where there is one."""
    middle = f"{estimate['median']:.{digits}f}"
    if estimate["low"] is None:
        return middle
    return f"{middle} ({estimate['low']:.{digits}f} to {estimate['high']:.{digits}f})"


def at_most(estimate: dict[str, Any], limit: float) -> bool:
    """A goal holds when the interval reaches down to it."""
    low = estimate["low"] if estimate["low"] is not None else estimate["median"]
    return bool(low <= limit)


def verdict(holds: bool, control: dict[str, Any] | None = None) -> str:
    if control is not None and void(control):
        return "void"
    return "holds" if holds else "missed"


def goals(results: dict[str, Any]) -> list[Goal]:
    """The goals of the parts that ``results`` has."""
    of = {"training": _training, "reads": _reads, "changes": _changes}
    of |= {"memory": _memory, "scale": _scale}
    return [goal for part, find in of.items() if part in results for goal in find(results[part])]


def _training(part: dict[str, Any]) -> Iterator[Goal]:
    for row in part["rows"]:
        limit = limit_of(row)
        size = f"{row['hidden']}, {row['length']}, {row['batch']}, {row['micro_batches']}"
        for kind, found in row["to_by_hand"].items():
            yield Goal(
                f"training step {size}, {kind}: times the step by hand",
                shown(found),
                f"{limit}",
                verdict(at_most(found, limit), row["control"]),
            )


def limit_of(row: dict[str, Any]) -> float:
    """Ours over by hand: the more reads, the less the one evaluation weighs."""
    return 1.03 if row["length"] >= 200 else 1.05


def _reads(part: dict[str, Any]) -> Iterator[Goal]:
    for name, row in part["rows"].items():
        if name == "torch cached()":
            continue
        holds = at_most(row["more"], 1.2) or at_most(row["times"], 2.5)
        yield Goal(
            f"read of {name}: µs over a plain parameter",
            shown(row["more"], 2),
            "1.2, or 2.5 times it",
            verdict(holds, part["control"]),
        )


def _changes(part: dict[str, Any]) -> Iterator[Goal]:
    for name, row in part["rows"].items():
        yield Goal(
            f"change of x, {name}: µs per layer and step over f inline",
            shown(row["more"], 1),
            "60",
            verdict(at_most(row["more"], 60), part["control"]),
        )


def _memory(part: dict[str, Any]) -> Iterator[Goal]:
    early, late = part["growth"]
    first, last = part["growth"][early], part["growth"][late]
    yield Goal(
        f"live tensors after {int(late):,} steps",
        f"{last['tensors']} of {last['bytes']} bytes",
        f"{first['tensors']} of {first['bytes']} bytes, as after {int(early):,}",
        verdict(last["tensors"] <= first["tensors"] and last["bytes"] <= first["bytes"]),
    )
    y = part["peak"]["one_y_per_layer"]
    for kind, by_count in part["peak"]["maps"].items():
        for count, found in by_count.items():
            limit = found["map at each read"] + y
            yield Goal(
                f"peak of a step, {kind}, {count} micro-batch{'es' * (count != '1')}: MiB",
                f"{found['ours']:.3g}",
                f"{limit:.3g}: the map at each read and one y per layer",
                verdict(found["ours"] <= limit),
            )


def _scale(part: dict[str, Any]) -> Iterator[Goal]:
    for what in ("registration", "ours"):
        exponent = part["exponent"][what]
        name = "a step" if what == "ours" else what
        yield Goal(
            f"exponent p of {name} in layers^p",
            f"{exponent:.2f}",
            "1.2",
            verdict(exponent <= 1.2),
        )
    batched = part.get("batched", {"rows": {}})
    for kind, row in batched["rows"].items():
        size = f"{batched['layers']} layers of {batched['size']} x {batched['size']}, {kind}"
        share = {k: v and 1 / v for k, v in row["faster"].items() if k != "pairs"}
        share["low"], share["high"] = share["high"], share["low"]
        yield Goal(
            f"{size}: batched over one by one",
            shown(share),
            "0.125: 8 times faster",
            verdict(at_most(share, 1 / 8), row["control"]),
        )
        yield Goal(
            f"{size}: µs per layer and step over the batch by hand",
            shown(row["more"], 1),
            "5",
            verdict(at_most(row["more"], 5), row["control"]),
        )
