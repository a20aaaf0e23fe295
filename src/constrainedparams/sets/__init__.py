"""The sets; each file holds one of them and nothing else."""

from .cholesky_factor import CholeskyFactor
from .contract import Constraint
from .grassmann import Grassmann
from .interval import Interval
from .invertible import Invertible
from .non_negative import NonNegative
from .orthogonal import Orthogonal
from .positive import Positive
from .positive_definite import PositiveDefinite
from .simplex import Simplex
from .skew import Skew
from .special_orthogonal import SpecialOrthogonal
from .sphere import Sphere
from .stiefel import Stiefel
from .symmetric import Symmetric

__all__ = [
    "CholeskyFactor",
    "Constraint",
    "Grassmann",
    "Interval",
    "Invertible",
    "NonNegative",
    "Orthogonal",
    "Positive",
    "PositiveDefinite",
    "Simplex",
    "Skew",
    "SpecialOrthogonal",
    "Sphere",
    "Stiefel",
    "Symmetric",
]
