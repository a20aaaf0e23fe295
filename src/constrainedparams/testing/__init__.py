"""The public conformance suite: what every set promises, as functions that check it."""

from .case import Case
from .check import check, check_constraint, sets_without_a_row
from .promises import PROMISES, PromiseBroken
from .rows import ROWS

__all__ = [
    "PROMISES",
    "ROWS",
    "Case",
    "PromiseBroken",
    "check",
    "check_constraint",
    "sets_without_a_row",
]
