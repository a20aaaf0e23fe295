"""README and docs are true: their code runs, prints what they say, and their commands exist."""

import contextlib
import io
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {
    path.name: path.read_text()
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    if path.name != "recipes.md"  # a part of sets.md
}
BLOCKS = [(name, *m.groups(), text[: m.start()].count("\n") + 2)
          for name, text in sorted(PAGES.items()) for m in FENCE.finditer(text)]  # fmt: skip
PYTHON = [pytest.param(name, body, line, id=f"{name} line {line}")
          for name, kind, body, line in BLOCKS if kind == "python"]  # fmt: skip
PRINTED = re.compile(r"^\s*print\(.*\)  # (.*)$", re.MULTILINE)


def test_every_block_says_what_it_is():
    assert {kind for _, kind, _, _ in BLOCKS} <= {"python", "bash", "text"}
    assert len(PYTHON) >= 5


@pytest.mark.parametrize(("name", "body", "line"), PYTHON)
def test_block_runs_alone_and_prints_its_comments(name, body, line, monkeypatch):
    code = compile("\n" * (line - 1) + body, name, "exec")
    page = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)  # a compiler asks where a function is from
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, vars(page))
    assert out.getvalue().splitlines() == PRINTED.findall(body)


def test_the_first_example_is_within_15_lines():
    first = next(body for name, kind, body, _ in BLOCKS if (name, kind) == ("README.md", "python"))
    assert len(first.splitlines()) <= 15
    assert README.index(first) < 1500


def test_the_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    commands = "\n".join(body for _, kind, body, _ in BLOCKS if kind == "bash")
    targets = re.findall(r"^make ([\w-]+)", commands, re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"\b[\w/]+\.(?:py|txt|md)\b", commands):
        assert (ROOT / path).exists(), path


MEASURED = {
    cells[0].strip("| "): float(cells[2].split()[0])
    for row in PAGES["benchmarks.md"].split("<!-- kernels: end -->")[0].splitlines()
    if re.match(r"\| `\w+\(.*?\)`, [\dx ]+ \|", row)
    for cells in [row.split(" | ")]
}
COSTS = re.findall(
    r"^\| (`.*?`) \| ([\d x]+) \| (\d+) \|$", PAGES["how-to-choose.md"], re.MULTILINE
)


@pytest.mark.parametrize(("made", "shape", "products"), COSTS)
def test_what_a_map_is_said_to_cost_is_what_was_measured(made, shape, products):
    """Within a third: the page need not change with every run of the benchmark."""
    assert 0.75 < float(products) / MEASURED[f"{made}, {shape}"] < 4 / 3


def test_the_costs_are_there():
    assert len(COSTS) > 15


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name):
    folder = ROOT if name == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[name]):
        if not target.startswith("http"):
            assert (folder / target).exists(), target
