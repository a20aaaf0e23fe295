"""Problems with known answers, solved by plain torch.optim through Parametrized."""

import numpy as np
import pytest
import torch
from statsmodels.stats.correlation_tools import corr_nearest

from . import dynamics, factorizations, numbers, rotations, symmetric, vectors
from .problem import solve

PROBLEMS = {
    **dynamics.PROBLEMS,
    **factorizations.PROBLEMS,
    **numbers.PROBLEMS,
    **rotations.PROBLEMS,
    **symmetric.PROBLEMS,
    **vectors.PROBLEMS,
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_reaches_the_known_answer(name):
    torch.manual_seed(0)
    problem = PROBLEMS[name]()
    y = solve(problem)
    assert bool(problem.constraint.contains(y).all())
    found = np.asarray(problem.quantity(y))
    assert np.abs(found - np.asarray(problem.answer)).max() <= problem.atol


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_start_is_no_answer(name):
    """The tolerance tells the answer from where the search began."""
    torch.manual_seed(0)
    problem = PROBLEMS[name]()
    y = problem.constraint.project(problem.start)
    gap = np.abs(np.asarray(problem.quantity(y)) - np.asarray(problem.answer)).max()
    assert gap > 10 * problem.atol


@pytest.mark.filterwarnings("ignore::statsmodels.tools.sm_exceptions.IterationLimitWarning")
def test_the_nearest_correlation_of_statsmodels():
    found = corr_nearest(symmetric.INDEFINITE)
    assert np.abs(solve(PROBLEMS["nearest_correlation"]()).numpy() - found).max() < 1e-5
