"""Every row has one test that exists, and the page shows what the tests assert."""

import re
from pathlib import Path

import pytest

from . import page, rows

TESTS = rows.tests()
HERE = Path(__file__).resolve().parents[1]


def test_every_row_is_held_by_one_test():
    wanted = [row for names in rows.sections().values() for row in names]
    assert len(wanted) == len(set(wanted)) == 190
    assert set(TESTS) | set(rows.ABSENT) == set(wanted)
    assert not set(TESTS) & set(rows.ABSENT)
    assert {row: names for row, names in TESTS.items() if len(names) != 1} == {}


@pytest.mark.parametrize("test", sorted({test for (test,) in TESTS.values()}))
def test_the_test_is_there(test):
    path, function = test.split("::")
    assert re.search(rf"^def {function}\(", (HERE / path).read_text(), re.MULTILINE)


def test_the_collectives_are_those_that_two_ranks_run():
    source = (HERE / "engine" / "ranks.py").read_text()
    for row in (*rows.COLLECTIVES, *rows.SHARDED):
        assert f'"{row}": ' in source, row


def test_eighteen_rows_that_no_signal_of_torch_reveals():
    """They stand in one table of the page, with what to call."""
    assert len(page.hidden()) == 18
    assert sum(evaluations == 0 for _, evaluations, _ in page.hidden()) == 14


def test_the_page_is_up_to_date():
    assert page.PATH.read_text() == page.render(), "run: make events"
