"""The sets; each file holds one of them and nothing else."""

from .affine_subspace import AffineSubspace
from .angle import Angle
from .ball import Ball
from .block_diagonal import BlockDiagonal
from .bounded_singular_values import BoundedSingularValues
from .cholesky_factor import CholeskyFactor
from .circulant import Circulant
from .contract import Constraint
from .convex import Convex
from .correlation import Correlation
from .correlation_cholesky import CorrelationCholesky
from .density_matrix import DensityMatrix
from .diagonal import Diagonal
from .doubly_stochastic import DoublyStochastic
from .fixed_entries import FixedEntries
from .fixed_rank import FixedRank
from .fixed_rank_positive_semidefinite import FixedRankPositiveSemidefinite
from .full_rank import FullRank
from .grassmann import Grassmann
from .greater_than import GreaterThan
from .hermitian import Hermitian
from .hurwitz import Hurwitz
from .interval import Interval
from .invertible import Invertible
from .less_than import LessThan
from .lorentz import Lorentz
from .low_rank import LowRank
from .lower_triangular import LowerTriangular
from .magnitude_direction import MagnitudeDirection
from .non_negative import NonNegative
from .nuclear_norm_ball import NuclearNormBall
from .ordered import Ordered
from .orthogonal import Orthogonal
from .poincare_ball import PoincareBall
from .positive import Positive
from .positive_definite import PositiveDefinite
from .positive_ordered import PositiveOrdered
from .positive_semidefinite import PositiveSemidefinite
from .rate_matrix import RateMatrix
from .rotation3d import Rotation3D
from .schur import Schur
from .simplex import Simplex
from .skew import Skew
from .skew_hermitian import SkewHermitian
from .special_linear import SpecialLinear
from .special_orthogonal import SpecialOrthogonal
from .special_unitary import SpecialUnitary
from .spectral_ball import SpectralBall
from .spectral_sphere import SpectralSphere
from .sphere import Sphere
from .stiefel import Stiefel
from .sum_to_zero import SumToZero
from .symmetric import Symmetric
from .symplectic import Symplectic
from .toeplitz import Toeplitz
from .traceless import Traceless
from .unit_determinant_positive_definite import UnitDeterminantPositiveDefinite
from .unitary import Unitary
from .upper_triangular import UpperTriangular

__all__ = [
    "AffineSubspace",
    "Angle",
    "Ball",
    "BlockDiagonal",
    "BoundedSingularValues",
    "CholeskyFactor",
    "Circulant",
    "Constraint",
    "Convex",
    "Correlation",
    "CorrelationCholesky",
    "DensityMatrix",
    "Diagonal",
    "DoublyStochastic",
    "FixedEntries",
    "FixedRank",
    "FixedRankPositiveSemidefinite",
    "FullRank",
    "Grassmann",
    "GreaterThan",
    "Hermitian",
    "Hurwitz",
    "Interval",
    "Invertible",
    "LessThan",
    "Lorentz",
    "LowRank",
    "LowerTriangular",
    "MagnitudeDirection",
    "NonNegative",
    "NuclearNormBall",
    "Ordered",
    "Orthogonal",
    "PoincareBall",
    "Positive",
    "PositiveDefinite",
    "PositiveOrdered",
    "PositiveSemidefinite",
    "RateMatrix",
    "Rotation3D",
    "Schur",
    "Simplex",
    "Skew",
    "SkewHermitian",
    "SpecialLinear",
    "SpecialOrthogonal",
    "SpecialUnitary",
    "SpectralBall",
    "SpectralSphere",
    "Sphere",
    "Stiefel",
    "SumToZero",
    "Symmetric",
    "Symplectic",
    "Toeplitz",
    "Traceless",
    "UnitDeterminantPositiveDefinite",
    "Unitary",
    "UpperTriangular",
]
