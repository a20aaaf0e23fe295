"""Timing on a noisy machine: CPU time of the process, interleaved pairs, medians with intervals."""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Step = Callable[[], object]
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Estimate:
    """A median and its 95 % interval; no interval below 6 pairs, which cannot give one."""

    median: float
    low: float | None
    high: float | None
    pairs: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The median, and the order statistics between which the true one lies.

    The number of n values below the true median is binomial(n, 1/2), whatever the distribution.
    So the k-th smallest and the k-th largest enclose it but for a chance of 2 P(binomial < k); k is
    the largest with that chance within 1 - confidence (Conover, Practical Nonparametric
    Statistics, 3.2).
    """
    ordered = sorted(values)
    n = len(ordered)
    outside, k = math.comb(n, 0), 0  # outside / 2^n = P(binomial <= k)
    while outside * 2 <= (1 - confidence) * 2**n:
        k += 1
        outside += math.comb(n, k)
    low, high = (ordered[k - 1], ordered[n - k]) if k else (None, None)
    return Estimate(statistics.median(ordered), low, high, n)


def ratio(times: Times, one: str, other: str) -> dict[str, Any]:
    """Estimate of one / other over the rounds that have both."""
    pairs = zip(times[one], times[other], strict=False)
    return median_interval([a / b for a, b in pairs]).as_json()


def difference(times: Times, one: str, other: str, unit: float = 1.0) -> dict[str, Any]:
    """Estimate of one - other over the rounds that have both, in ``unit`` seconds."""
    pairs = zip(times[one], times[other], strict=False)
    return median_interval([(a - b) / unit for a, b in pairs]).as_json()


def timed(step: Step) -> float:
    """Seconds of CPU of this process that ``step`` takes."""
    start = time.process_time()
    step()
    return time.process_time() - start


def interleaved(
    steps: dict[str, Step],
    rounds: int,
    seed: int = 0,
    clock: Callable[[Step], float] | None = None,
) -> Times:
    """Times of each step by ``clock`` (:func:`timed`), once in each round, in an order drawn anew.

    The collector runs between the rounds, not within the steps: its turns would hit some of them.
    """
    order, draw = list(steps), random.Random(seed)
    times: Times = {name: [] for name in steps}
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for _ in range(rounds):
            draw.shuffle(order)
            for name in order:
                times[name].append((clock or timed)(steps[name]))
            gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
    return times


def rounds_within(seconds: float, steps: dict[str, Step], least: int, most: int) -> int:
    """How many rounds fit into ``seconds``; runs each step twice, which warms it up as well."""
    for step in steps.values():
        step()
    one = sum(timed(step) for step in steps.values())
    return max(least, min(most, int(seconds / one)))
