"""The benchmark of accuracy runs, keeps its rows, and its verdicts are about what it measured."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module(monkeypatch):
    """A module of the benchmarks, which are no part of the package."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_a_quick_run_prints_and_keeps_every_map(tmp_path, module):
    kept = tmp_path / "accuracy.json"
    command = [sys.executable, "-m", "benchmarks.accuracy", "--quick", "--output", str(kept)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    found = json.loads(kept.read_text())["maps"]
    assert found.keys() == module("maps").MAPS.keys()
    for name, part in found.items():
        assert f"| {name} |" in done.stdout
        assert part["control"] is None or part["control"] < 1e-3  # of a unit
        for row in part["rows"]:
            assert all(math.isfinite(e) for e in [row["value"]["ours"], *row["gradient"]["ours"]])
            assert row["gradient"]["ours"][0] == row["gradient"]["ours"][-1]
    for name in ("Cayley, n x k", "polar, n x n", "spectral ball", "doubly stochastic"):
        assert f"| {name} |" in done.stdout.split("Above the bound")[0]
        assert "missed" not in next(l for l in done.stdout.splitlines() if f"| {name} |" in l)


@pytest.mark.parametrize("name", ["exp of skew, n x n", "Cayley, n x k", "exp of symmetric"])
@pytest.mark.parametrize("part", ["value", "gradient"])
def test_a_worse_map_is_above_the_bound(name, part, module):
    """A part in 20,000 is 200 units of eps sqrt(n) at n = 16."""
    f, accuracy = module("maps").MAPS[name], module("accuracy")
    at = module("maps").Point(f.shapes[1], "norm", 1.2)

    def worse(x):
        y = f.ours(x)
        more = 5e-5 * (y.detach() if part == "value" else y - y.detach())
        return y + more

    broken = type(f)(**{**vars(f), "ours": worse, "on_set": None})
    assert list(accuracy.misses(accuracy.measured(f, at, quick=True))) == []
    over = list(accuracy.misses(accuracy.measured(broken, at, quick=True)))
    assert any(f": {part}" in text for text in over)


def test_a_gradient_that_sees_its_size_is_above_the_bound(module):
    accuracy = module("accuracy")
    f = module("maps").MAPS["exp of any matrix"]
    at = module("maps").Point((16, 16), "norm", 1.2)
    row = accuracy.measured(type(f)(**{**vars(f), "ours": torch.matrix_exp}), at, quick=True)
    assert [text.split(": ")[1].split()[0] for text in accuracy.misses(row)] == ["scales"]


def test_what_is_no_number_counts_as_infinitely_wrong(module):
    accuracy = module("accuracy")
    assert accuracy.units(math.nan, 1.0, (4, 4), 1e-7) == math.inf
    row = {"at": "2 x 2", "distance": None, "value": {"ours": math.inf, "torch": 1.0}}
    row["gradient"] = {"ours": [1.0] * 5, "torch": [math.inf] * 5}
    assert list(accuracy.misses(row)) == ["2 x 2: value none, torch 1"]
    assert accuracy.rounded(row)["value"]["ours"] is None
