"""The worked example of fine-tuning runs, learns, and what it saves is what it says."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "fine_tune.py"
SETS = {"body.0.0.weight", "body.1.0.weight", "body.2.0.weight", "head.weight", "head.scale"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(printed lines, folder with the files) of the program as its first line says to start it."""
    folder = tmp_path_factory.mktemp("fine_tune")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--output", str(folder)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


def figures(out):
    """What stands behind the colons."""
    return dict(re.findall(r"^(\w[\w -]+): +([\d.e-]+)", out, re.MULTILINE))


def test_what_it_prints(run):
    out, _ = run
    found = {name: float(value) for name, value in figures(out).items()}
    assert found["trained"] > 95 and found["fine-tuned"] > 95
    assert found["moved onto their sets"] < found["trained"]
    assert found["baked and loaded"] == found["checkpoint loaded"]
    assert found["furthest from its set"] < 1e-5
    assert out.count("the same outputs: True") == 2
    moved = dict(re.findall(r"^(\S+) was moved by \S+ \((\S+) %\)", out, re.MULTILINE))
    assert moved.keys() == SETS - {"head.scale"}
    assert all(0 < float(percent) < 30 for percent in moved.values())
    assert {line.split()[0] for line in out.splitlines() if "Orthogonal()" in line} >= SETS - {
        "head.weight",
        "head.scale",
    }


def test_the_baked_file_is_of_the_plain_class(run):
    _, folder = run
    spec = importlib.util.spec_from_file_location("fine_tune", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    saved = torch.load(folder / "baked.pt", weights_only=True)
    assert all(type(tensor) is torch.Tensor for tensor in saved.values())
    model = program.Classifier()
    model.load_state_dict(saved, strict=True)
    for layer, _ in model.body:
        assert type(layer) is nn.Linear
        singular = torch.linalg.svdvals(layer.weight.detach().double())
        assert (singular - 1).abs().max() < 1e-5
    assert (model.head.weight.detach().double().norm(dim=1) - 1).abs().max() < 1e-6
    assert model.head.scale > 0
    *_, inputs, classes = program.digits()
    assert f"{program.accuracy(model, inputs, classes):.1f} %, the same" in run[0]


def test_the_checkpoint_holds_x(run):
    _, folder = run
    saved = torch.load(folder / "fine_tuned.pt", weights_only=True)
    assert "body.0.0._weight_unconstrained" in saved and "body.0.0.weight" not in saved
