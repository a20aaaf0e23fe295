"""The cost of a training step over the same step without a constraint, all columns in one run."""

import statistics
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from . import networks
from .networks import MAPS, Row, Task
from .pairs import Step, Times, interleaved, ratio, rounds_within, timed

ROWS = [
    Row(128, 784, 32, 1),
    Row(256, 784, 32, 1),
    Row(256, 200, 32, 1),
    Row(256, 50, 32, 1),
    Row(256, 50, 32, 8),
]
QUICK = [Row(16, 20, 8, 1), Row(16, 10, 8, 2)]
PLAIN, CONTROL = "unconstrained", "unconstrained again"


def measured(*, quick: bool) -> dict[str, Any]:
    networks.check_agreement(Row(16, 12, 4, 2))
    rows = tqdm(QUICK if quick else ROWS, desc="training steps", leave=False)
    return {"rows": [measure(row, quick=quick) for row in rows]}


def columns_of(row: Row) -> list[str]:
    fast = ["torch cached()", "ours", "by hand"]
    return fast if row.micro_batches == 1 else [*fast[:2], "ours, deferred", "by hand"]


def measure(row: Row, *, quick: bool) -> dict[str, Any]:
    """One row; the map at each read is timed apart, as often as half a minute lets."""
    task = Task(row)
    steps: dict[str, Step] = {
        PLAIN: networks.unconstrained(task, "exp").step,
        CONTROL: networks.unconstrained(task, "exp").step,
    }
    for kind in MAPS:
        for name in columns_of(row):
            steps[f"{name} {kind}"] = networks.COLUMNS[name](task, kind).step
    least, seconds = (10, 0.5) if quick else (60, 60.0)
    times = interleaved(steps, rounds_within(seconds, steps, least=least, most=4 * least))
    found: dict[str, Any] = {
        **asdict(row),
        "milliseconds": 1e3 * statistics.median(times[PLAIN]),
        "control": ratio(times, CONTROL, PLAIN),
        "columns": {},
        "to_by_hand": {},
    }
    last = columns_of(row)[-2]  # ours, as it is meant for this number of micro-batches
    for kind in MAPS:
        slow = few(networks.no_cache(task, kind).step, steps[PLAIN], seconds / 2)
        found["columns"][kind] = {"no cache": ratio(slow, "no cache", PLAIN)} | {
            name: ratio(times, f"{name} {kind}", PLAIN) for name in columns_of(row)
        }
        found["to_by_hand"][kind] = ratio(times, f"{last} {kind}", f"by hand {kind}")
    return found


def few(slow: Step, plain: Step, seconds: float, most: int = 3) -> Times:
    """At least one pair, then more while time lasts."""
    times: Times = {"no cache": [], PLAIN: []}
    while len(times[PLAIN]) < most and (
        not times[PLAIN] or sum(times["no cache"]) + times["no cache"][-1] < seconds
    ):
        times[PLAIN].append(timed(plain))
        times["no cache"].append(timed(slow))
    return times
