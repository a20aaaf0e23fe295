"""docs/sets.md is what its script prints, its code runs, and every set that people have has an ending."""

import contextlib
import importlib.util
import io
import re
import sys
import tomllib
import types
from pathlib import Path

import pytest
import torch

import constrainedparams
from constrainedparams.attach.combinations import JOINT

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "sets.md").read_text()
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^\s*print\(.*\)  # (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_sets", DOCS / "make_sets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_prints(script):
    assert script.page() == PAGE, "run `make docs`"


def test_every_set_has_a_line():
    sets = [
        n for n in constrainedparams.__all__ if n in constrainedparams._sets and n != "Constraint"
    ]
    for name in sets:
        assert f"\n| `{name}` | " in PAGE, name


def test_every_row_of_who_has_which_set_has_an_ending(script):
    rows = script.DATA["who"]
    assert len(rows) > 75 and len({row["set"] for row in rows}) == len(rows)
    for row in rows:
        ending = script.ending(row)
        assert ending.startswith(("present: `", "second tier: [here is how", "refused: ")), row
        if "recipe" in row:
            assert f"\n### {row['recipe']}\n" in PAGE


@pytest.mark.parametrize(
    "text",
    sorted(
        {
            n
            for row in PAGE.splitlines()
            if "| present: " in row
            for n in re.findall(r"`([A-Z]\w+\(.*?\))`", row.partition("| present: ")[2])
        }
    ),
)
def test_a_set_that_is_said_to_be_present_is_made_as_it_stands_there(text):
    assert isinstance(eval(text, vars(constrainedparams)), constrainedparams.Constraint)


@pytest.mark.parametrize(
    "body", FENCE.findall(PAGE), ids=lambda body: re.search(r"class (\w+)", body)[1]
)
def test_a_recipe_runs_and_prints_its_comments(body, monkeypatch):
    module = types.ModuleType("recipe")  # the compiler asks for the module of a function
    monkeypatch.setitem(sys.modules, "recipe", module)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(body, "sets.md", "exec"), vars(module))
    assert out.getvalue().splitlines() == PRINTED.findall(body)


def _names():
    rows = tomllib.loads((DOCS / "sets.toml").read_text())["names"]
    return {row["system"]: dict(row["pairs"]) for row in rows}


@pytest.mark.parametrize("system", _names())
def test_a_set_under_another_name_exists(system):
    values = {"a": -1.0, "b": 1.0, "r": 2, "A": torch.ones(1, 3)}
    for ours in _names()[system].values():
        for text in re.split(r"(?<=\)), ", ours):
            made = eval(text, {**vars(constrainedparams), **values})
            assert isinstance(made, constrainedparams.Constraint)


@pytest.mark.filterwarnings("ignore")  # of imports that are not ours
@pytest.mark.parametrize(
    ("system", "module"),
    [
        ("torch.distributions", "torch.distributions.constraints"),
        ("torch.nn.utils.parametrizations", "torch.nn.utils.parametrizations"),
        ("geotorch", "geotorch"),
        ("geoopt", "geoopt"),
    ],
)
def test_the_other_names_are_those_of_their_library(system, module):
    known = dir(importlib.import_module(module))
    assert {word for words in _names()[system] for word in words.split(", ")} <= {*known}


def test_what_distributions_calls_a_set_is_what_is_made_of_it():
    values = {"a": -1.0, "b": 1.0}
    for theirs, ours in _names()["torch.distributions"].items():
        constraint = getattr(torch.distributions.constraints, theirs)
        if isinstance(constraint, type):
            constraint = constraint(*list(values.values())[: ours.count(",")])
        expected = eval(ours, {**vars(constrainedparams), **values})
        assert constrainedparams.from_distributions(constraint) == expected


@pytest.mark.parametrize("joint", JOINT.values())
def test_a_joint_set_exists(joint):
    mask, value = torch.eye(2).bool(), 1.0
    names = {
        **vars(constrainedparams),
        "mask": mask,
        "value": value,
        "lower": 0.0,
        "upper": 1.0,
        "radius": 1.0,
        "rank": 2,
        "A": torch.ones(1, 3),
    }
    made = eval("".join(joint.rpartition(")")[:2]).replace("...", "1"), names)
    assert isinstance(made, constrainedparams.Constraint)


def test_a_pair_is_written_in_one_order():
    for pair in JOINT:
        assert list(pair) == sorted(pair)
