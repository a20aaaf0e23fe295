"""The demo does what its help says, also when interrupted, and learns."""

import importlib
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "digits.py"
SMALL = ["--hidden", "16", "--timed-steps", "2"]
PNG = b"\x89PNG\r\n\x1a\n"


def start(*arguments, cwd):
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )


def run(*arguments, cwd):
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def rows(out):
    """The table as {network: {column: text}}."""
    lines = [re.split(r" *\| *", line)[1:-1] for line in out.splitlines() if line[:2] == "| "]
    header, *body = lines
    return {cells[0]: dict(zip(header, cells, strict=True)) for cells in body}


def test_table_and_curves(tmp_path):
    code, out, err = run("--epochs", 2, "--seeds", 2, *SMALL, cwd=tmp_path)
    assert code == 0, err
    table = rows(out)
    assert list(table) == [
        "orthogonal",
        "free, same start",
        "free, default start",
        "LSTM",
        "orthogonal, map at every read",
    ]
    ours, at_every_read = table["orthogonal"], table["orthogonal, map at every read"]
    assert (ours["f per step"], ours["pullbacks per step"]) == ("1", "1")
    assert (at_every_read["f per step"], at_every_read["pullbacks per step"]) == ("64", "64")
    assert re.fullmatch(r"\d+\.\d \(\d+\.\d to \d+\.\d\)", ours["test accuracy, %"])
    assert float(ours["furthest from orthogonal"]) < 1e-4
    assert float(table["free, same start"]["furthest from orthogonal"]) > 1e-2
    assert float(at_every_read["ms per step"]) > float(ours["ms per step"])
    path = Path(re.search(r"^curves: (.*)$", out, re.MULTILINE)[1])
    assert path == tmp_path / "results" / "digits.png"
    assert path.read_bytes().startswith(PNG)
    assert "100%" in err
    assert "Traceback" not in err


def test_interruption_keeps_the_results_so_far(tmp_path):
    process = start("--epochs", 1000, *SMALL, "--output", "so far.png", cwd=tmp_path)
    seen = ""
    deadline = time.monotonic() + 60
    while "test accuracy" not in seen and time.monotonic() < deadline:
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Interrupted" in out
    table = rows(out)
    assert list(table) == ["orthogonal"]
    assert table["orthogonal"]["f per step"] == "1"
    assert int(table["orthogonal"]["epochs"]) >= 1
    assert (tmp_path / "so far.png").read_bytes().startswith(PNG)
    assert "Traceback" not in err


def test_help_names_every_option(tmp_path):
    code, out, _ = run("--help", cwd=tmp_path)
    assert code == 0
    for option in ("--epochs", "--quick", "--seeds", "--output"):
        assert option in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--epochs", "0"], "'0' is not a whole number of 1 or more"),
        (["--seeds", "many"], "'many' is not a whole number of 1 or more"),
        (["--hidden", "15"], "--hidden 15 is odd"),
    ],
)
def test_wrong_arguments_are_explained(arguments, complaint, tmp_path):
    code, out, err = run(*arguments, cwd=tmp_path)
    assert code == 2
    assert complaint in err
    assert not out


@pytest.fixture
def digits(monkeypatch):
    """The program as a module, on one thread as when it runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(PROGRAM.parent)
    yield importlib.import_module("digits")
    torch.set_num_threads(threads)


@pytest.mark.timeout(600)
def test_the_orthogonal_network_reaches_97_percent(digits):
    """Mean of 3 seeds, each the mean of its last five epochs; one f and one pullback per step."""

    class Bar:
        update = set_postfix_str = staticmethod(lambda *_: None)

    runs = [digits.Run("orthogonal", seed) for seed in range(3)]
    for one in runs:
        digits.train(one, hidden=128, epochs=30, bar=Bar())
        assert one.counts == (one.counted_steps, one.counted_steps) == (1350, 1350)
    assert statistics.mean(one.accuracy for one in runs) >= 0.97
