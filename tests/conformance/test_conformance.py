"""Every row of the table keeps every promise, and every set has a row."""

import pytest

import constrainedparams
from constrainedparams import sets
from constrainedparams.testing import PROMISES, ROWS, check, sets_without_a_row


@pytest.mark.parametrize("promise", PROMISES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("case", ROWS, ids=str)
def test_promise(promise, case):
    check(promise, case)


@pytest.mark.parametrize("namespace", [sets, constrainedparams], ids=["sets", "package"])
def test_every_exported_set_has_a_row(namespace):
    assert list(sets_without_a_row(namespace, ROWS)) == []
