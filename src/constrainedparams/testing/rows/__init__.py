"""The table of sets: one row or more for each, in one file for each family."""

from . import (
    elementwise,
    factors,
    hyperbolic,
    linear,
    matrices,
    orthogonal,
    semidefinite,
    sequences,
    stochastic,
    vectors,
)

__all__ = ["ROWS"]

ROWS = (
    *elementwise.ROWS,
    *factors.ROWS,
    *hyperbolic.ROWS,
    *linear.ROWS,
    *matrices.ROWS,
    *orthogonal.ROWS,
    *sequences.ROWS,
    *semidefinite.ROWS,
    *stochastic.ROWS,
    *vectors.ROWS,
)
