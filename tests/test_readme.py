"""The README is true: its code runs, prints what it says, and its commands exist."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(kind, body, README[: m.start()].count("\n") + 2) for m in FENCE.finditer(README)
          for kind, body in [m.groups()]]  # fmt: skip
PYTHON = [pytest.param(body, line, id=f"line {line}") for kind, body, line in BLOCKS
          if kind == "python"]  # fmt: skip
PRINTED = re.compile(r"^\s*print\(.*\)  # (.*)$", re.MULTILINE)


def test_every_block_says_what_it_is():
    assert {kind for kind, _, _ in BLOCKS} <= {"python", "bash", "text"}
    assert len(PYTHON) >= 5


@pytest.mark.parametrize(("body", "line"), PYTHON)
def test_block_runs_alone_and_prints_its_comments(body, line):
    code = compile("\n" * (line - 1) + body, str(ROOT / "README.md"), "exec")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {"__name__": "readme"})
    assert out.getvalue().splitlines() == PRINTED.findall(body)


def test_the_first_example_is_within_15_lines():
    first = next(body for kind, body, _ in BLOCKS if kind == "python")
    assert len(first.splitlines()) <= 15
    assert README.index(first) < 1500


def test_the_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    commands = "\n".join(body for kind, body, _ in BLOCKS if kind == "bash")
    targets = re.findall(r"^make ([\w-]+)", commands, re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"\b[\w/]+\.(?:py|txt|md)\b", commands):
        assert (ROOT / path).exists(), path


def test_links_lead_to_files():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
