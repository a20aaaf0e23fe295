"""The benchmark of the exponential runs and keeps what it prints."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_quick_run_prints_and_keeps_its_table(tmp_path):
    kept = tmp_path / "kernels.json"
    command = [sys.executable, "-m", "benchmarks.kernels", "--quick", "--output", str(kept)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    rows = json.loads(kept.read_text())["exp"]
    assert [row["products"] for row in rows.values()] == [5, 8, 11] * 2
    for row in rows.values():
        assert row["ours"]["median"] < row["torch.matrix_exp"]["median"]
        assert f"{row['ours']['median']:.1f}" in done.stdout
