"""The table of sets: one row or more for each, in one file for each family."""

from . import (
    correlation,
    dynamics,
    elementwise,
    factors,
    hermitian,
    hyperbolic,
    linear,
    matrices,
    orthogonal,
    rectangular,
    semidefinite,
    sequences,
    stochastic,
    vectors,
)

__all__ = ["ROWS"]

ROWS = (
    *correlation.ROWS,
    *dynamics.ROWS,
    *elementwise.ROWS,
    *factors.ROWS,
    *hermitian.ROWS,
    *hyperbolic.ROWS,
    *linear.ROWS,
    *matrices.ROWS,
    *orthogonal.ROWS,
    *rectangular.ROWS,
    *semidefinite.ROWS,
    *sequences.ROWS,
    *stochastic.ROWS,
    *vectors.ROWS,
)
