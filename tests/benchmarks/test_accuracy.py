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


HOLDS_IN_THREE_DRAWS = (
    "Cayley, n x k",
    "polar, n x n",
    "Householder, n x n",
    "Householder, n x k",
    "Householder, complex",
    "spectral ball",
    "doubly stochastic",
    "Schur stable",
    "Hurwitz stable",
    "correlation, L",
    "correlation, L L^T",
    "P - A^T P A = Q",
    "A P + P A^T = -Q",
    "logarithm",
)


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
        double = module("maps").MAPS[name].dtype in (torch.float64, torch.complex128)
        least = 0.5 if double else 1e-3  # of a unit: half of one rounds the truth to double
        assert part["control"] is None or part["control"] < least
        for row in part["rows"]:
            assert (row["gradient"] is None) == double
            gradient = [] if double else row["gradient"]["ours"]
            assert all(math.isfinite(e) for e in [row["value"]["ours"], *gradient])
            assert gradient[:1] == gradient[-1:]
    for name in HOLDS_IN_THREE_DRAWS:
        assert f"| {name} |" in done.stdout.split("Above the bound")[0]
        assert "missed" not in next(l for l in done.stdout.splitlines() if f"| {name} |" in l)


WITH_GRADIENT = (
    "exp of skew, n x n",
    "Householder, n x k",
    "Cayley, n x k",
    "exp of symmetric",
    "Hurwitz stable",
    "symplectic",
    "correlation, L",
)


@pytest.mark.parametrize("name", WITH_GRADIENT)
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


@pytest.mark.parametrize("name", ["P - A^T P A = Q", "A P + P A^T = -Q", "logarithm, complex"])
def test_a_worse_solution_is_above_the_bound(name, module):
    """A part in 10^12 is a thousand units of double precision."""
    f, accuracy = module("maps").MAPS[name], module("accuracy")
    at = module("maps").Point(f.shapes[1], "repeated", 1.0)
    broken = type(f)(**{**vars(f), "ours": lambda x: (1 + 1e-12) * f.ours(x)})
    assert list(accuracy.misses(accuracy.measured(f, at, quick=True))) == []
    (over,) = accuracy.misses(accuracy.measured(broken, at, quick=True))
    assert "16 x 16, repeated: value" in over


@pytest.mark.parametrize(
    ("name", "off", "on"),
    [
        ("Schur stable", [[1.5, 9.0], [0.0, 0.5]], [[0.9, 9.0], [0.0, 0.5]]),
        ("Hurwitz stable", [[-1.0, 9.0], [0.0, 0.5]], [[-1.0, 9.0], [0.0, -0.5]]),
        ("invertible, exp(S) R", [[1.0, 0.0], [0.0, -1.0]], [[1.0, 0.0], [0.0, 1e-9]]),
        ("singular values in (1/2, 2)", [[1.0, 0.0], [0.0, 0.25]], [[1.9, 0.0], [0.0, 0.6]]),
        ("symplectic", [[2.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 0.5]]),
        ("correlation, L", [[1.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [0.6, 0.8]]),
        ("correlation, L L^T", [[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.9], [0.9, 1.0]]),
    ],
)
def test_what_is_off_the_set_has_a_distance(name, off, on, module):
    distance = module("maps").MAPS[name].distance
    assert distance(torch.tensor(off, dtype=torch.float64)) > 0.01
    assert distance(torch.tensor(on, dtype=torch.float64)) < 1e-15


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
    run = {"maps": {"f": {"rows": [row]}}}
    assert accuracy.restored(accuracy.rounded(run)) == run


def test_a_run_of_some_maps_leaves_what_is_kept_of_the_others(tmp_path, monkeypatch, module):
    accuracy = module("accuracy")
    row = {"at": "2 x 2", "value": {"ours": 1.0}, "distance": None, "gradient": None}
    old, new = ({"rows": [{**row, "at": at}]} for at in ("2 x 2", "4 x 4"))
    monkeypatch.setattr(accuracy, "KEPT", tmp_path / "kept.json")
    run = {"command": "all", "maps": {"logarithm": old, "symplectic": old, "of the past": old}}
    accuracy.KEPT.write_text(accuracy.as_text(run))
    found = accuracy.with_kept({"command": "some", "maps": {"logarithm": new}})
    assert found == {"command": "all", "maps": {"symplectic": old, "logarithm": new}}
    assert list(found["maps"]) == ["symplectic", "logarithm"]
