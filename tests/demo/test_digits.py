"""The demo does what its help says, also when interrupted, and learns."""

import importlib
import itertools
import json
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
from sklearn.datasets import load_digits

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "digits.py"
SMALL = ["--hidden", "16", "--timed-steps", "2"]
PNG = b"\x89PNG\r\n\x1a\n"


def heard():
    """Shells have what they run in the background ignore the signal that is sent below."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*arguments, cwd):
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=cwd,
        preexec_fn=heard,
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
    header, *body = cells(out)
    return {line[0]: dict(zip(header, line, strict=True)) for line in body}


def cells(out):
    return [re.split(r" *\| *", line)[1:-1] for line in out.splitlines() if line[:2] == "| "]


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
    assert re.fullmatch(r"\d+\.\d \(\d+\.\d to \d+\.\d\)", ours["accuracy in training, %"])
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
    while "accuracy in training" not in seen and time.monotonic() < deadline:
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Interrupted" in out
    table = rows(out)
    assert list(table) == ["orthogonal"]
    assert table["orthogonal"]["f per step"] == "1"
    assert int(table["orthogonal"]["epochs"]) >= 1
    assert table["orthogonal"]["accuracy in training, %"]
    assert table["orthogonal"]["test accuracy, %"] == ""  # only after the last epoch
    assert (tmp_path / "so far.png").read_bytes().startswith(PNG)
    assert "Traceback" not in err


def test_scan_tries_the_same_on_all_and_picks_the_best(tmp_path):
    small = ["--epochs", 1, "--hidden", 4, "--seeds", 2, "--output", "kept/curves.png"]
    code, out, err = run("--scan", *small, cwd=tmp_path)
    assert code == 0, err
    path = Path(re.search(r"^all tries: (.*)$", out, re.MULTILINE)[1])
    assert path == tmp_path / "kept" / "scan.json"
    kept = json.loads(path.read_text())
    assert (kept["epochs"], kept["hidden"], kept["torch"]) == (1, 4, torch.__version__)
    scores = {}  # of each network under each setting, over the seeds
    for t in kept["tries"]:
        setting = t["rate"], t["share"], t["smoothing"]
        scores.setdefault(t["network"], {}).setdefault(setting, {})[t["seed"]] = t["accuracy"]
    header, *body = cells(out)
    assert header == ["rate", "share", "smoothing", *scores]
    assert len(scores) == 4 and len(body) == 28
    for column, (name, found) in enumerate(scores.items(), start=3):
        assert list(found) == [tuple(map(float, line[:3])) for line in body]
        means = []
        for by_seed, line in zip(found.values(), body, strict=True):
            assert list(by_seed) == [0, 1]
            means.append(statistics.mean(by_seed.values()))
            assert line[column] == f"{100 * means[-1]:.1f}"
        rate, share, smoothing = list(found)[means.index(max(means))]
        pick = f"{name}: Settings(rate={rate}, share={share}, smoothing={smoothing}), "
        assert pick + f"{100 * max(means):.1f} %\n" in out


def test_interrupted_scan_keeps_its_tries(tmp_path):
    process = start("--scan", "--epochs", 1, "--hidden", 16, cwd=tmp_path)
    seen = ""
    deadline = time.monotonic() + 60
    while "LSTM" not in seen and time.monotonic() < deadline:
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    names = [
        t["network"] for t in json.loads((tmp_path / "results/scan.json").read_text())["tries"]
    ]
    assert names[:3] == ["orthogonal", "free, same start", "free, default start"]
    assert f"{names[0]}: Settings(" in out
    assert "Traceback" not in err


def test_help_names_every_option(tmp_path):
    code, out, _ = run("--help", cwd=tmp_path)
    assert code == 0
    for option in ("--epochs", "--quick", "--seeds", "--scan", "--output"):
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


def test_split_has_each_digit_in_one_part_and_equal_shares(digits):
    parts, labels = digits.split(), load_digits().target
    assert parts == digits.split()
    assert sorted(itertools.chain(*parts.values())) == list(range(1797))
    assert {name: len(rows) for name, rows in parts.items()} == {
        "train": 1077,
        "validation": 360,
        "test": 360,
    }
    every = torch.tensor(labels).bincount() / 1797
    for rows in parts.values():
        shares = torch.tensor(labels[rows]).bincount() - len(rows) * every
        assert shares.abs().max() < 1.5


def test_the_scan_sees_no_test_digit(digits):
    parts, (pixels, labels) = digits.split(), load_digits(return_X_y=True)
    for scan, learn, held in [
        (True, parts["train"], parts["validation"]),
        (False, parts["train"] + parts["validation"], parts["test"]),
    ]:
        found = digits.Digits.load(scan=scan)
        mean, deviation = pixels[learn].mean(), pixels[learn].std()
        for (x, y), rows in [(found.learn, learn), (found.held, held)]:
            assert y.tolist() == labels[rows].tolist()
            raw = torch.tensor(pixels[rows])
            torch.testing.assert_close(x.double() * deviation + mean, raw, atol=1e-5, rtol=0)


def test_settings_come_from_the_list_of_the_scan(digits):
    assert {network.settings for network in digits.NETWORKS.values()} <= set(digits.SCAN)


@pytest.mark.parametrize("name", ["orthogonal", "free, same start", "free, default start", "LSTM"])
def test_the_share_is_of_the_recurrent_matrix(name, digits):
    """The first update of Adam moves every entry by its rate (warm-up: 1/25 of the peak)."""
    model = digits.NETWORKS[name].build(8)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer = digits.Trainer(model, digits.Settings(rate=0.1, share=0.25, smoothing=0.0), 100)
    trainer.step(torch.randn(16, 64), torch.arange(16) % 10)
    moved = {n: (p - before[n]).abs().max().item() for n, p in model.named_parameters()}
    recurrent = {
        n for n in moved if n in ("recurrent", "_recurrent_unconstrained", "lstm.weight_hh_l0")
    }
    assert len(recurrent) == 1
    for n, distance in moved.items():
        expected = 0.1 / 25 * (0.25 if n in recurrent else 1)
        assert distance == pytest.approx(expected, rel=1e-2), n


@pytest.mark.timeout(600)
def test_the_orthogonal_network_reaches_97_percent(digits):
    """Test accuracy, mean of 3 seeds; one f and one pullback per step."""

    class Bar:
        update = set_postfix_str = staticmethod(lambda *_: None)

    settings = digits.NETWORKS["orthogonal"].settings
    runs = [digits.Run("orthogonal", seed, settings) for seed in range(3)]
    for one in runs:
        digits.train(one, hidden=128, epochs=30, digits=digits.Digits.load(scan=False), bar=Bar())
        assert one.counts == (one.counted_steps, one.counted_steps) == (1350, 1350)
    assert statistics.mean(one.accuracy for one in runs) >= 0.97
