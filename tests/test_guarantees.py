"""Every test that docs/guarantees.md names is there, and every row names one."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TEXT = (HERE.parent / "docs" / "guarantees.md").read_text()
ROWS = [
    line
    for line in TEXT[: TEXT.index("## Limits")].splitlines()
    if line.startswith("| ") and not line.startswith(("| promise", "|---"))
]


def test_there_are_rows():
    assert len(ROWS) > 30


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_the_tests_of_a_promise_exist(row):
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", row.split("|")[2])
    assert named
    for path, function in named:
        source = (HERE / path).read_text()
        assert not function or re.search(rf"^def {function}\(", source, re.MULTILINE), function
