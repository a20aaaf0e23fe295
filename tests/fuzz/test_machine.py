"""Random histories of a constrained network, compared after every event with the naive network.

The naive one (``pair.py``) runs f inline at every use and caches nothing. After each rule every y is
f(x), every gradient is the naive one, and ``statistics`` counts at most one evaluation per change.
``make test`` runs a fixed set of histories; ``make fuzz`` draws new ones for an hour, counts which
pairs of rules followed each other, and shrinks what fails.
"""

import os
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from .daily import Daily
from .events import OPTIMISERS, WRITES
from .reading import Reading
from .training import Training
from .writing import Writing

SECONDS = float(os.environ.get("FUZZ_SECONDS", 0))


class Machine(Training, Writing, Reading, Daily):
    """All rules. Each calls ``did`` with one of ``LABELS``."""


LABELS = {
    *("backward", "backward in a thread", "backward create_graph", "grad create_graph"),
    *("zero_grad", "step lbfgs", "scaler steps", "scaler skips", "retain_grad", "autocast"),
    *("checkpoint reentrant", "checkpoint saved tensors", "deferred discarded", "deferred folded"),
    *("x another parameter", "x swapped", "f parameter", "f parameter.data", "f buffer", "updated"),
    *("y in place", "y data", "y data assigned", "y assignment", "y parameter"),
    *("refused in place", "refused grad mode", "refused assignment", "refused both"),
    *("hold y", "write into held y", "read eval", "read no_grad", "read inference"),
    *("read autocast", "read thread", "temporarily", "bake"),
    *("functional_call weight", "functional_call _weight_unconstrained"),
    *("func.grad", "func.vmap", "func.per sample", "func.jvp"),
    *("freeze", "freeze f", "train/eval", "save", "load copy", "load assign", "load plain"),
    *("retract", "deepcopy", "pickle", "cast float", "cast to float32", "cast to float64"),
    *("remove constrained", "remove unconstrained", "register", "remove", "share", "untie"),
    *(f"step {kind}" for kind in OPTIMISERS),
    *(f"x {how}" for how in WRITES),
}


def histories(examples, steps, **options):
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), **options,
    )  # fmt: skip


def report():
    """Which rules came after which."""
    names = sorted(LABELS)
    missing = [(a, b) for a in names for b in names if not Machine.followed[a, b]]
    print(f"{len(names)} rules, {sum(Machine.ran.values())} ran", flush=True)
    print(f"{len(names) ** 2 - len(missing)} of {len(names) ** 2} ordered pairs occurred")
    for first in names if len(missing) < len(names) ** 2 / 10 else ():
        after = [b for a, b in missing if a == first]
        if after:
            print(f"never after {first!r}: {', '.join(after)}")


@pytest.mark.timeout(0 if SECONDS else 600)  # half a minute of one idle core
def test_any_history_gives_what_the_naive_network_gives():
    Machine.ran, Machine.followed = Counter(), Counter()
    if not SECONDS:
        for number in range(3):
            run_state_machine_as_test(
                seed(number)(Machine), settings=histories(20, 50, phases=[Phase.generate])
            )
        assert set(Machine.ran) == LABELS
        return
    end, number = time.monotonic() + SECONDS, int(os.environ.get("FUZZ_SEED", 0))
    while time.monotonic() < end:
        number += 1
        print(f"seed {number}", flush=True)
        run_state_machine_as_test(seed(number)(Machine), settings=histories(50, 60))
    report()
