"""Every row of another package: a warm cache, the event, then value and gradient of the naive model."""

import pytest

from ..event import assert_event, assert_told, assert_verified
from ..rows import ECOSYSTEM as EVENTS

HIDDEN = {name: event for name, event in EVENTS.items() if event.tell}
# what other packages warn of is not ours to forbid
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_event(event):
    assert_event(event)


@pytest.mark.parametrize("event", HIDDEN.values(), ids=HIDDEN)
def test_told(event):
    assert_told(event)


@pytest.mark.parametrize("event", HIDDEN.values(), ids=HIDDEN)
def test_verified(event):
    assert_verified(event)
