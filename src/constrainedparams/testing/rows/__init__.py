"""The table of sets: one row or more for each, in one file for each family."""

from . import elementwise, factors, linear, matrices, orthogonal, vectors

__all__ = ["ROWS"]

ROWS = (
    *elementwise.ROWS,
    *factors.ROWS,
    *linear.ROWS,
    *matrices.ROWS,
    *orthogonal.ROWS,
    *vectors.ROWS,
)
