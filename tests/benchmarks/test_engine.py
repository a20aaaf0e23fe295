"""The benchmark of the engine runs, keeps what it promises, and its statistics are right."""

import importlib
import json
import math
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import scipy.stats

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module(monkeypatch):
    """A module of the benchmarks, which are no part of the package."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture(scope="session")
def quick(tmp_path_factory):
    """Text and numbers of a quick run."""
    kept = tmp_path_factory.mktemp("bench") / "engine.json"
    command = [sys.executable, "-m", "benchmarks.engine", "--quick", "--output", str(kept)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(kept.read_text())


def is_estimate(found, *, pairs):
    assert found["pairs"] >= pairs
    if found["pairs"] >= 6:
        assert found["low"] <= found["median"] <= found["high"]
    return math.isfinite(found["median"])


# a quick run -----------------------------------------------------------------------------------


def test_training_has_all_columns_and_the_quotient_to_by_hand(quick):
    one, several = quick[1]["training"]["rows"]
    assert (one["micro_batches"], several["micro_batches"]) == (1, 2)
    columns = {"no cache", "torch cached()", "ours", "by hand"}
    for row, names in ((one, columns), (several, columns | {"ours, deferred"})):
        assert is_estimate(row["control"], pairs=10)
        for kind in ("exp", "cayley"):
            found = row["columns"][kind]
            assert found.keys() == names
            assert all(is_estimate(f, pairs=1) and f["median"] > 0 for f in found.values())
            assert found["no cache"]["median"] > found["torch cached()"]["median"]
            assert is_estimate(row["to_by_hand"][kind], pairs=10)


def test_the_quotient_is_of_the_deferred_column_where_there_is_one(quick):
    row = quick[1]["training"]["rows"][1]
    for kind, quotient in row["to_by_hand"].items():
        of = row["columns"][kind]
        through = of["ours, deferred"]["median"] / of["by hand"]["median"]
        assert quotient["median"] == pytest.approx(through, rel=0.2)


def test_reads_are_compared_with_a_plain_parameter(quick):
    part = quick[1]["reads"]
    assert 0 < part["plain"] < 100  # microseconds
    assert part["rows"].keys() == {
        "callable",
        "set",
        "set with map state",
        "nn.Module with one parameter",
        "callable, manual",
        "torch cached()",
    }
    for row in part["rows"].values():
        assert row["microseconds"] > 0
        assert is_estimate(row["more"], pairs=10) and is_estimate(row["times"], pairs=10)


def test_changes_are_compared_with_f_inline(quick):
    part = quick[1]["changes"]
    assert part["rows"].keys() == {"callable", "set", "nn.Module with one parameter"}
    for row in part["rows"].values():
        # f is a negation of 16 numbers: in ten toy rounds noise may exceed it, not the engine
        assert 0 < part["plain"] < row["ours"]
        assert 0 < row["inline"] < row["ours"]
        assert is_estimate(row["more"], pairs=10)


def test_memory_does_not_grow_and_has_its_reference(quick):
    part = quick[1]["memory"]
    assert list(part["growth"]) == ["20", "40"]
    early, late = part["growth"].values()
    assert (late["tensors"], late["bytes"]) == (early["tensors"], early["bytes"])
    assert late["left by one more step"] <= 0
    for by_count in part["peak"]["maps"].values():
        assert list(by_count) == ["1", "2"]
        for found in by_count.values():
            assert 0 < found["unconstrained"] < found["map at each read"]
            assert found["ours"] > found["unconstrained"]


def test_scale_has_times_for_each_size(quick):
    part = quick[1]["scale"]
    assert [row["layers"] for row in part["rows"]] == [10, 20, 40]
    for row in part["rows"]:
        assert 0 < row["unconstrained"] < row["ours"]
        assert row["inline"] > 0
        assert row["registration"] > 0
    assert part["exponent"].keys() == {"registration", "unconstrained", "inline", "ours"}
    assert part["held"]["objects"] > 0
    assert abs(part["elsewhere"]) < 100  # microseconds, and noise
    assert part["held"]["tensors"] == pytest.approx(8 * 8 * 4 / 1024, rel=0.1)  # the base
    for row in part["batched"]["rows"].values():
        assert 0 < row["microseconds"]["by hand"] < row["microseconds"]["one by one"]
        for estimate in ("faster", "more", "control"):
            assert is_estimate(row[estimate], pairs=10)


def test_the_page_has_every_goal_and_says_that_it_is_a_toy(quick, module):
    text, results = quick
    assert text.startswith("A quick run: toy sizes")
    found = module("goals").goals(results)
    assert len(found) == 4 + 5 + 3 + 5 + 2 + 4
    for goal in found:
        assert goal.verdict in ("holds", "missed", "void")
        assert f"| {goal.what} | {goal.measured} | {goal.limit} | {goal.verdict} |" in text
    assert module("page").page(results) in text


def test_the_page_in_the_docs_is_that_of_the_run_in_the_docs(module):
    kept, text = ROOT / "docs/bench-engine.json", (ROOT / "docs/benchmarks.md").read_text()
    page = module("page")
    body = page.page(json.loads(kept.read_text()))
    assert page.replaced(text, "engine", body) == text


def test_a_quick_run_is_not_published():
    command = [sys.executable, "-m", "benchmarks.engine", "--quick", "--publish"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "--publish wants a full run" in done.stderr


# statistics ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 7, 10, 59, 60, 61, 100, 500])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_of_a_median_is_that_of_scipy(module, n, confidence):
    draw = random.Random(n)
    values = [draw.lognormvariate(0, 1) for _ in range(n)]
    found = module("pairs").median_interval(values, confidence)
    test = scipy.stats.quantile_test(values, p=0.5)
    expected = test.confidence_interval(confidence_level=confidence)
    assert (found.low, found.high) == (expected.low, expected.high)
    assert (found.median, found.pairs) == (statistics.median(values), n)


def test_five_values_give_no_interval_of_95_percent(module):
    found = module("pairs").median_interval([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (found.median, found.low, found.high) == (3.0, None, None)


def test_quotients_and_differences_are_taken_within_a_round(module):
    pairs = module("pairs")
    times = {"one": [2.0, 30.0, 8.0] * 3, "other": [1.0, 10.0, 2.0] * 3}
    assert pairs.ratio(times, "one", "other")["median"] == 3.0
    assert pairs.difference(times, "one", "other", unit=2.0)["median"] == 3.0


def test_rounds_run_every_step_once_in_changing_order(module):
    ran = []
    steps = {name: lambda name=name: ran.append(name) for name in "abcd"}
    times = module("pairs").interleaved(steps, rounds=20)
    rounds = [tuple(ran[i : i + 4]) for i in range(0, 80, 4)]
    assert all(sorted(one) == list("abcd") for one in rounds)
    assert len(set(rounds)) > 5
    assert {name: len(t) for name, t in times.items()} == dict.fromkeys("abcd", 20)


def test_the_slope_is_the_power(module):
    slope = module("scale").slope
    assert slope([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0]) == pytest.approx(2)
    expected = scipy.stats.linregress([0, 1, 2], [0, 1, 1.5]).slope
    assert slope([1, math.e, math.e**2], [1, math.e, math.e**1.5]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("low", "control", "verdict"),
    [(1.02, 1.0, "holds"), (1.04, 1.0, "missed"), (1.02, 1.02, "void"), (1.02, 0.98, "void")],
)
def test_a_goal_holds_when_the_interval_reaches_down_to_it(module, low, control, verdict):
    row = {"hidden": 8, "length": 200, "batch": 1, "micro_batches": 1}
    row["control"] = {"median": control, "low": control, "high": control, "pairs": 60}
    row["to_by_hand"] = {"exp": {"median": 1.05, "low": low, "high": 1.06, "pairs": 60}}
    (goal,) = module("goals").goals({"training": {"rows": [row]}})
    assert (goal.limit, goal.verdict) == ("1.03", verdict)


def test_columns_that_train_otherwise_are_noticed(module, monkeypatch):
    networks = module("networks")
    row = networks.Row(6, 4, 2, 2)
    networks.check_agreement(row)
    wrong = dict(networks.COLUMNS, ours=lambda task, _: networks.unconstrained(task, "exp"))
    monkeypatch.setattr(networks, "COLUMNS", wrong)
    with pytest.raises(AssertionError, match=r"ours \(exp\) moves the matrix otherwise"):
        networks.check_agreement(row)


def test_a_profile_of_changes_shows_the_engine(module, capsys):
    module("changes").profiled(count=2, steps=3)
    shown = capsys.readouterr().out
    assert "(build)" in shown and "(vjp)" in shown
