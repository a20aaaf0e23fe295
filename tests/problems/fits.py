"""One least-squares fit, or the like, for each set with a textbook answer: one row each.

Linear sets: min |A y - B|_F, where the free entries solve a linear system of their own. Others: the
nearest point or the farthest corner of a linear function, by eigenvalues, singular values or FFT.
"""

import numpy as np
import scipy.linalg
import scipy.stats
import torch
from torch import Tensor

import constrainedparams as cp

from .problem import Problem

F64, C128 = torch.float64, torch.complex128


def _noise(*shape: int, seed: int, complex_: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shape)
    return a + 1j * rng.standard_normal(shape) if complex_ else a


# min |A y - B|_F ----------------------------------------------------------------------------------

A, B = _noise(9, 4, seed=0), _noise(9, 4, seed=1)
AC, BC = _noise(9, 4, seed=2, complex_=True), _noise(9, 4, seed=3, complex_=True)
MASK = np.arange(16).reshape(4, 4) % 3 == 0


def _fit(constraint: cp.Constraint, answer: np.ndarray, a=A, b=B, **more) -> Problem:
    L, R = torch.from_numpy(a), torch.from_numpy(b)
    start = more.pop("start", torch.eye(4, dtype=L.dtype))
    return Problem(constraint, start, lambda y: (L @ y - R).abs().square().mean(), answer, **more)


def _tall(constraint: cp.Constraint) -> Problem:
    """A plain fit; from elsewhere a singular value might have to cross 0."""
    answer = np.linalg.lstsq(A, B[:, :3])[0]
    near = torch.from_numpy(answer + 0.3 * _noise(4, 3, seed=13))
    return _fit(constraint, answer, A, B[:, :3], start=near, steps=6)


def _in_order() -> Problem:
    """A plain fit whose answer is in order."""
    answer = np.array([0.4, 0.9, 1.1, 2.5])
    start = torch.ones(4, dtype=F64)
    return _fit(cp.PositiveOrdered(), answer, A, A @ answer, start=start)


def _two_sided(a: np.ndarray, b: np.ndarray, sign: int) -> np.ndarray:
    """y = sign y^H: the normal equations are a Lyapunov equation (Higham, BIT 28, 1988)."""
    gram, right = a.conj().T @ a, a.conj().T @ b
    return scipy.linalg.solve_continuous_lyapunov(gram, right + sign * right.conj().T)


def _on(free: np.ndarray, given: np.ndarray | float = 0.0) -> np.ndarray:
    """Column by column, over the rows that are free."""
    y = np.where(free, 0.0, given)
    rest = B - A @ y
    for j in range(4):
        y[free[:, j], j] = np.linalg.lstsq(A[:, free[:, j]], rest[:, j])[0]
    return y


def _traceless() -> np.ndarray:
    """The plain fit, and a multiple of the identity in the metric of A^T A that takes the trace."""
    plain, inverse = np.linalg.lstsq(A, B)[0], np.linalg.inv(A.T @ A)
    return plain - np.trace(plain) / np.trace(inverse) * inverse


def _circulant() -> Problem:
    """y v = w with y circulant is a convolution: a quotient of Fourier transforms."""
    v, w = _noise(5, seed=4), _noise(5, seed=5)
    V, W = torch.from_numpy(v), torch.from_numpy(w)
    column = np.fft.ifft(np.fft.fft(w) / np.fft.fft(v)).real
    return Problem(
        cp.Circulant(),
        torch.zeros(5, 5, dtype=F64),
        lambda y: (y @ V - W).square().mean(),
        scipy.linalg.circulant(column),
    )


# the nearest point --------------------------------------------------------------------------------

N = _noise(6, 4, seed=6)
U, SIGMA, VT = scipy.linalg.svd(N, full_matrices=False)


def _nearest(constraint: cp.Constraint, a: np.ndarray, answer: np.ndarray, **more) -> Problem:
    goal = torch.from_numpy(a)
    start = more.pop("start", torch.from_numpy(_noise(*a.shape, seed=7)).to(goal.dtype))
    return Problem(constraint, start, lambda y: (y - goal).abs().square().mean(), answer, **more)


def _sphere_of_norms() -> Problem:
    """One singular value is above the radius, and clipped."""
    radius = float(SIGMA[:2].mean())
    return _nearest(cp.SpectralSphere(radius), N, (U * SIGMA.clip(max=radius)) @ VT)


def _semidefinite() -> Problem:
    """Negative eigenvalues become 0 (Higham, Linear Algebra Appl. 103, 1988)."""
    a = _noise(4, 4, seed=8)
    e, v = np.linalg.eigh(a + a.T)
    answer = (v * e.clip(min=0)) @ v.T
    return _nearest(cp.PositiveSemidefinite(), a + a.T, answer, start=torch.eye(4, dtype=F64))


def _truncated() -> Problem:
    """Eckart and Young."""
    answer = (U[:, :2] * SIGMA[:2]) @ VT[:2]
    return _nearest(cp.FixedRank(2), N, answer, atol=1e-5, steps=10)


# the most of a linear function --------------------------------------------------------------------


def _most(constraint: cp.Constraint, a: np.ndarray, answer: np.ndarray, **more) -> Problem:
    goal = torch.from_numpy(a)
    start = constraint.sample(a.shape, dtype=goal.dtype, generator=torch.Generator().manual_seed(0))
    return Problem(constraint, start, lambda y: -(goal.conj() * y).real.sum(), answer, **more)


def _unit_quaternion() -> Problem:
    """SU(2) is [[p, -q*], [q, p*]] with |p|^2 + |q|^2 = 1."""
    a = _noise(2, 2, seed=9, complex_=True)
    p, q = a[0, 0] + a[1, 1].conj(), a[1, 0] - a[0, 1].conj()
    answer = np.array([[p, -q.conj()], [q, p.conj()]]) / np.hypot(abs(p), abs(q))
    return _most(cp.SpecialUnitary(), a, answer, retract_every=2)


def _rows_of_a_factor() -> Problem:
    """Each row of a correlation factor is a unit vector, its last entry positive."""
    a = np.tril(_noise(4, 4, seed=10), -1) + np.diag([1.0, 0.5, 2.0, 1.0])
    return _most(cp.CorrelationCholesky(), a, a / np.linalg.norm(a, axis=1, keepdims=True))


# likelihoods --------------------------------------------------------------------------------------


def _circular_mean() -> Problem:
    data = np.random.default_rng(11).vonmises(3.0, 2.0, 50)  # around pi, where angles jump
    D = torch.from_numpy(data)
    mean = scipy.stats.circmean(data, high=np.pi, low=-np.pi)
    start = torch.full((1,), 1.5, dtype=F64)
    return Problem(cp.Angle(), start, lambda y: (1 - torch.cos(D - y)).mean(), [mean])


def _factor_of_a_covariance() -> Problem:
    """Twice minus the log-likelihood of a normal, in its Cholesky factor."""
    data = _noise(20, 4, seed=12)
    sample = data.T @ data / 20
    S = torch.from_numpy(sample)

    def loss(y: Tensor) -> Tensor:
        return 2 * y.diagonal().log().sum() + torch.cholesky_solve(S, y).diagonal().sum()

    return Problem(cp.CholeskyFactor(), torch.eye(4, dtype=F64), loss, np.linalg.cholesky(sample))


def _rate(constraint: cp.Constraint, mean: float) -> Problem:
    """The rate of an exponential distribution is one over the mean; the bound is not met."""
    start = torch.full((1,), 0.5, dtype=F64)
    return Problem(constraint, start, lambda y: (y * mean - y.log()).sum(), [1 / mean])


TARGET = np.array([-1.5, -0.2, 0.3, 2.0])

PROBLEMS = {
    "symmetric": lambda: _fit(cp.Symmetric(), _two_sided(A, B, 1)),
    "skew": lambda: _fit(cp.Skew(), _two_sided(A, B, -1)),
    "hermitian": lambda: _fit(cp.Hermitian(), _two_sided(AC, BC, 1), AC, BC),
    "skew_hermitian": lambda: _fit(cp.SkewHermitian(), _two_sided(AC, BC, -1), AC, BC),
    "lower_triangular": lambda: _fit(cp.LowerTriangular(), _on(np.tri(4) > 0)),
    "upper_triangular": lambda: _fit(cp.UpperTriangular(), _on(np.tri(4).T > 0)),
    "diagonal": lambda: _fit(cp.Diagonal(), _on(np.eye(4) > 0)),
    "fixed_entries": lambda: _fit(
        cp.FixedEntries(torch.from_numpy(MASK), 0.5), _on(~MASK, 0.5)
    ),
    "block_diagonal": lambda: _fit(
        cp.BlockDiagonal(2), _on(np.kron(np.eye(2), np.ones((2, 2))) > 0)
    ),
    "traceless": lambda: _fit(cp.Traceless(), _traceless()),
    "full_rank": lambda: _tall(cp.FullRank()),
    "bounded_singular_values": lambda: _tall(cp.BoundedSingularValues(0.1, 2.0)),
    "positive_ordered": _in_order,
    "circulant": _circulant,
    "closed_half_line": lambda: _nearest(
        cp.GreaterThan(-0.5, closed=True), TARGET, TARGET.clip(min=-0.5)
    ),
    "closed_half_line_below": lambda: _nearest(
        cp.LessThan(0.25, closed=True), TARGET, TARGET.clip(max=0.25)
    ),
    "half_open_interval": lambda: _nearest(
        cp.Interval(-0.5, 3.0, closed="left"), TARGET, TARGET.clip(min=-0.5)
    ),
    "spectral_sphere": _sphere_of_norms,
    "positive_semidefinite": _semidefinite,
    "fixed_rank": _truncated,
    "stiefel": lambda: _most(
        cp.Stiefel(), N, scipy.linalg.polar(N)[0], steps=10
    ),
    "special_unitary": _unit_quaternion,
    "correlation_factor": _rows_of_a_factor,
    "angle": _circular_mean,
    "cholesky_factor": _factor_of_a_covariance,
    "greater_than": lambda: _rate(cp.GreaterThan(0.1), 1.25),
    "less_than": lambda: _rate(cp.LessThan(2.0), 1.25),
}  # fmt: skip
