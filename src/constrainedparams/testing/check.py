"""Ways to run the suite: one promise, all of them, and the search for sets without a row."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..sets.contract import Constraint
from .case import Case
from .promises import PROMISES, Promise, PromiseBroken

__all__ = ["check", "check_constraint", "sets_without_a_row"]


def check(promise: Promise, case: Case) -> None:
    """Check one promise for one row.

    A promise that the row declares broken must fail; that it holds is reported, so that no
    declaration outlives its reason.

    Raises:
        PromiseBroken: the set does not keep the promise, or keeps one declared broken.
        ValueError: ``case.broken`` names a promise that does not exist.
    """
    known = {each.__name__ for each in PROMISES}
    if unknown := set(case.broken) - known:
        raise ValueError(
            f"{case}: broken names {', '.join(sorted(unknown))}; the promises are "
            f"{', '.join(sorted(known))}."
        )
    reason = case.broken.get(promise.__name__)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            promise(case)
        except Exception as problem:  # whatever a user's own set may raise
            if reason is None:
                kind = "" if isinstance(problem, PromiseBroken) else f"{type(problem).__name__}: "
                text = f"{case} breaks `{promise.__name__}`: {kind}{problem}"
                raise PromiseBroken(text) from problem
            return
    if reason is not None:
        raise PromiseBroken(
            f"{case} keeps `{promise.__name__}`, which its row declares broken ({reason}). "
            "Remove it from `broken`."
        )


def check_constraint(case: Case) -> None:
    """Check every promise of the contract for one row.

    Example:
        >>> import torch
        >>> from constrainedparams import Interval
        >>> from constrainedparams.testing import Case, check_constraint
        >>> check_constraint(
        ...     Case(
        ...         constraint=Interval(0.0, 4.0),
        ...         shape=(3,),
        ...         decay_target=lambda like: torch.full_like(like, 2.0),
        ...         coordinates=lambda y: y,
        ...         near_misses={"the bound": lambda y: torch.full_like(y, 4.0)},
        ...     )
        ... )

    With pytest, one test for each promise:

        @pytest.mark.parametrize("promise", PROMISES, ids=lambda p: p.__name__)
        def test_my_set(promise):
            check(promise, my_case)
    """
    for promise in PROMISES:
        check(promise, case)


def sets_without_a_row(namespace: Any, rows: Iterable[Case]) -> Sequence[str]:
    """One message for each concrete set exported by ``namespace`` that no row is about."""
    covered = {type(row.constraint) for row in rows}
    found = {
        value
        for value in (getattr(namespace, name) for name in namespace.__all__)
        if isinstance(value, type) and issubclass(value, Constraint)
    }
    return [
        f"{cls.__name__} has no row. Add `Case({cls.__name__}(), shape=..., decay_target=..., "
        "near_misses=...)` to ROWS in a file of constrainedparams/testing/rows."
        for cls in sorted(found - covered, key=lambda c: c.__name__)
        if not inspect.isabstract(cls)
    ]
