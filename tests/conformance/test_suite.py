"""The suite fails when it should: for wrong sets, stale declarations and missing rows."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from constrainedparams import NonNegative, Orthogonal, PositiveDefinite
from constrainedparams.testing import (
    PROMISES,
    ROWS,
    Case,
    PromiseBroken,
    check,
    check_constraint,
    sets_without_a_row,
)

BY_NAME = {promise.__name__: promise for promise in PROMISES}
ROW = next(row for row in ROWS if isinstance(row.constraint, NonNegative))


@dataclass(frozen=True, repr=False)
class Cube(NonNegative):
    def _forward(self, x):
        return x**3


@dataclass(frozen=True, repr=False)
class Detached(NonNegative):
    def _forward(self, x):
        return x * x.detach()


@dataclass(frozen=True, repr=False)
class Dead(NonNegative):
    def _right_inverse(self, y):
        return y.sqrt()


@dataclass(frozen=True, repr=False)
class Tolerant(NonNegative):
    def _tolerance(self, shape, dtype):
        return 1e-3


@dataclass(frozen=True, repr=False)
class Writing(NonNegative):
    def _forward(self, x):
        with torch.no_grad():
            x.abs_()
        return x * x


@dataclass(frozen=True, repr=False)
class Branching(NonNegative):
    def _forward(self, x):
        return x * x if x.sum() > 0 else x * x * 1.0


@dataclass(frozen=True, repr=False)
class Infinite(NonNegative):
    def _forward(self, x):
        return torch.exp(x)

    def _right_inverse(self, y):
        return y.clamp_min(1e-6).log()


@dataclass(frozen=True, repr=False)
class Shrinking(NonNegative):
    def _project(self, y):
        return 0.5 * y.abs()


@pytest.mark.parametrize(
    ("wrong", "promise"),
    [
        (Cube(), "lands_in_the_set"),
        (Infinite(), "lands_in_the_set"),
        (Infinite(), "decays_to_its_target"),
        (Detached(), "first_derivative_is_right"),
        (Dead(), "has_its_dimension"),
        (Tolerant(), "knows_its_members"),
        (Writing(), "leaves_its_inputs_alone"),
        (Shrinking(), "project_lands_and_stays"),
    ],
    ids=lambda v: v if isinstance(v, str) else repr(v),
)
def test_a_wrong_set_breaks_its_promise(wrong, promise):
    row = Case(wrong, ROW.shape, ROW.decay_target, ROW.near_misses, ROW.awkward)
    with pytest.raises(PromiseBroken, match=promise):
        check(BY_NAME[promise], row)
    declared = Case(
        wrong, ROW.shape, ROW.decay_target, ROW.near_misses, ROW.awkward, broken={promise: "a test"}
    )
    check(BY_NAME[promise], declared)


@pytest.mark.parametrize("promise", ["works_under_vmap", "compiled_equals_eager"])
def test_control_flow_on_values_is_found(promise):
    row = Case(Branching(), ROW.shape, ROW.decay_target)
    with pytest.raises(PromiseBroken, match=promise):
        check(BY_NAME[promise], row)


def test_a_declared_promise_that_holds_is_reported():
    row = Case(NonNegative(), (3,), torch.zeros_like, broken={"pullback_is_linear": "not so"})
    with pytest.raises(PromiseBroken, match="Remove it from `broken`"):
        check(BY_NAME["pullback_is_linear"], row)


def test_a_declaration_of_an_unknown_promise_is_refused():
    row = Case(NonNegative(), (3,), torch.zeros_like, broken={"vmap": "?"})
    with pytest.raises(ValueError, match="works_under_vmap"):
        check_constraint(row)


def test_a_set_without_a_row_is_told_which_row_to_add():
    namespace = SimpleNamespace(__all__=["Orthogonal", "PositiveDefinite"], Orthogonal=Orthogonal)
    namespace.PositiveDefinite = PositiveDefinite
    rows = [row for row in ROWS if isinstance(row.constraint, Orthogonal)]
    (message,) = sets_without_a_row(namespace, rows)
    assert "PositiveDefinite has no row" in message
    assert "ROWS in a file of constrainedparams/testing/rows" in message
