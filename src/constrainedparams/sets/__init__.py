"""The sets; each file holds one of them and nothing else."""

from .contract import Constraint
from .interval import Interval
from .non_negative import NonNegative
from .orthogonal import Orthogonal
from .positive_definite import PositiveDefinite

__all__ = [
    "Constraint",
    "Interval",
    "NonNegative",
    "Orthogonal",
    "PositiveDefinite",
]
