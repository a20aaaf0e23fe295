"""The program for a GPU runs on the CPU, where it measures nothing, and says what it needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "benchmarks.gpu", "--quick"]


def test_it_runs(tmp_path):
    kept = tmp_path / "gpu.json"
    command = [*COMMAND, "--device", "cpu", "--output", str(kept)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found = json.loads(kept.read_text())
    assert {"sets", "kernels", "batched", "steps"} <= set(found)
    assert all("`" + name.split("(")[0] in done.stdout for name in found["sets"])
    assert all(row["tf32"] <= 1 and row["bf16"] <= 1 for row in found["sets"].values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_it_says_so():
    done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "no GPU is available here" in done.stderr
