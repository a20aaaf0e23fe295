"""The page is one table; every test that it names is there, and it has every limit of the README."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TEXT = (HERE.parent / "docs" / "guarantees.md").read_text()
README = (HERE.parent / "README.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split(" | ")]
    for line in TEXT.split("\n## Versions")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| about")
]
LIMITS = [claim for about, claim, _ in ROWS if about == "limit"]
SECTION = README[README.index("## Limits") :].split("\n## ")[0]


def test_there_is_one_table():
    assert TEXT.count("\n|---|") == 1 + TEXT.count("## Versions")
    assert len(ROWS) > 50 and len(LIMITS) > 10


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1][:40])
def test_the_tests_of_a_promise_exist(row):
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", row[2])
    assert named
    for path, function in named:
        source = (HERE / path).read_text()
        assert not function or re.search(rf"^def {function}\(", source, re.MULTILINE), function


@pytest.mark.parametrize("title", re.findall(r"^- \*\*(.+?)\.?\*\*", SECTION, re.MULTILINE))
def test_a_limit_of_the_readme_is_in_the_table(title):
    assert any(claim.startswith(title) for claim in LIMITS)
