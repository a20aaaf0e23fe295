"""Problems with known answers, solved by plain torch.optim through Parametrized."""

from functools import cache
from inspect import isabstract, isclass

import numpy as np
import pytest
import torch
from statsmodels.stats.correlation_tools import corr_nearest

import constrainedparams
from constrainedparams import Constraint

from . import dynamics, factorizations, fits, numbers, rotations, symmetric, vectors
from .problem import solve

PROBLEMS = {
    **dynamics.PROBLEMS,
    **factorizations.PROBLEMS,
    **fits.PROBLEMS,
    **numbers.PROBLEMS,
    **rotations.PROBLEMS,
    **symmetric.PROBLEMS,
    **vectors.PROBLEMS,
}


@cache
def built(name):
    torch.manual_seed(0)
    return PROBLEMS[name]()


def test_every_set_has_a_problem():
    exported = [getattr(constrainedparams, name) for name in constrainedparams.__all__]
    sets = {c for c in exported if isclass(c) and issubclass(c, Constraint) and not isabstract(c)}
    assert sets - {type(built(name).constraint) for name in PROBLEMS} == set()


@pytest.mark.parametrize("name", PROBLEMS)
def test_reaches_the_known_answer(name):
    problem = built(name)
    y = solve(problem)
    assert bool(problem.constraint.contains(y).all())
    found = np.asarray(problem.quantity(y))
    assert np.abs(found - np.asarray(problem.answer)).max() <= problem.atol


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_start_is_no_answer(name):
    """The tolerance tells the answer from where the search began."""
    problem = built(name)
    y = problem.constraint.project(problem.start)
    gap = np.abs(np.asarray(problem.quantity(y)) - np.asarray(problem.answer)).max()
    assert gap > 10 * problem.atol


@pytest.mark.filterwarnings("ignore::statsmodels.tools.sm_exceptions.IterationLimitWarning")
def test_the_nearest_correlation_of_statsmodels():
    found = corr_nearest(symmetric.INDEFINITE)
    assert np.abs(solve(built("nearest_correlation")).numpy() - found).max() < 1e-5
