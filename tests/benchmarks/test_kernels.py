"""The benchmark of kernels runs, and prints what it keeps."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_quick_run_prints_and_keeps_its_tables(tmp_path):
    kept = tmp_path / "kernels.json"
    command = [sys.executable, "-m", "benchmarks.kernels", "--quick", "--output", str(kept)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found = json.loads(kept.read_text())
    square, tall = found["cases"].values()
    # The exponential itself: 8 products; the base point: one, and one in the derivative.
    assert square["products"] >= 8
    times = square["times"]
    assert times["ours"]["median"] < times["torch matrix_exp"]["median"]
    assert times["ours"]["median"] < times["geotorch expm"]["median"]
    assert f"{times['ours']['median']:.1f}" in done.stdout
    assert tall["goal"] is None
    assert set(found["growth"]) >= {"exp, n x n", "cayley, 256 x k", "polar, 256 x k"}
    assert found["tall"]["512 x 8"]["stored"] < 6


def test_a_run_of_some_cases_leaves_what_is_kept_of_the_others(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    kernels = importlib.import_module("benchmarks.kernels")
    names = [str(case) for case in kernels.CASES[:3]]
    monkeypatch.setattr(kernels, "KEPT", tmp_path / "kept.json")
    run = {"command": "all", "growth": {"exp": 1}, "cases": dict.fromkeys([*names[:2], "past"], 1)}
    kernels.KEPT.write_text(json.dumps(run))
    found = kernels.with_kept(
        {"command": "some", "growth": {}, "cases": {names[2]: 2, names[0]: 2}}
    )
    assert found == {**run, "cases": {names[0]: 2, names[1]: 1, names[2]: 2}}
    assert list(found["cases"]) == names
