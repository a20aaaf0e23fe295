"""Numbers with bounds and in order: least squares, isotonic and convex regression."""

import numpy as np
import scipy.optimize
import torch
from sklearn.datasets import load_diabetes
from sklearn.isotonic import IsotonicRegression

from constrainedparams import Convex, Interval, NonNegative, Ordered, Positive

from .problem import Problem

F64 = torch.float64


def _diabetes() -> tuple[np.ndarray, np.ndarray]:
    data = load_diabetes()
    return data.data * 20, (data.target - data.target.mean()) / data.target.std()


def _squares(a: np.ndarray, b: np.ndarray):
    A, B = torch.from_numpy(a), torch.from_numpy(b)
    return lambda y: (A @ y - B).square().mean()


def nonnegative_least_squares() -> Problem:
    """Half of the coefficients are exactly 0 at the optimum."""
    a, b = _diabetes()
    return Problem(
        NonNegative(),
        torch.full((10,), 0.1, dtype=F64),
        _squares(a, b),
        scipy.optimize.nnls(a, b)[0],
    )


def box_constrained_least_squares() -> Problem:
    a, b = _diabetes()
    answer = scipy.optimize.lsq_linear(a, b, (-0.2, 0.2), tol=1e-14).x
    return Problem(
        Interval(-0.2, 0.2, closed=True), torch.full((10,), 0.01, dtype=F64), _squares(a, b), answer
    )


def isotonic_regression() -> Problem:
    """Pooled values are ties, which an open cone of ordered numbers comes as near to as one likes."""
    rng = np.random.default_rng(0)
    b = np.linspace(-1, 1, 20) ** 3 + 0.3 * rng.standard_normal(20)
    B = torch.from_numpy(b)
    return Problem(
        Ordered(),
        torch.linspace(-1, 1, 20, dtype=F64),
        lambda y: (y - B).square().mean(),
        IsotonicRegression().fit_transform(np.arange(20), b),
        atol=2e-3,
        steps=60,
    )


def convex_regression() -> Problem:
    """Hinges with non-negative weights span the convex sequences: NNLS of SciPy finds the fit.

    Most second differences are 0 at the optimum, at infinity for an open cone: the least squares
    are compared.
    """
    rng = np.random.default_rng(1)
    t = np.linspace(-1, 1, 12)
    b = t**2 + 0.2 * rng.standard_normal(12)
    hinges = np.maximum(t[:, None] - t[None, 1:-1], 0)
    basis = np.column_stack((np.ones(12), -np.ones(12), t, -t, hinges))
    B = torch.from_numpy(b)

    def loss(y: torch.Tensor) -> torch.Tensor:
        return (y - B).square().mean()

    return Problem(
        Convex(),
        torch.from_numpy(t**2),
        loss,
        np.square(basis @ scipy.optimize.nnls(basis, b)[0] - b).mean(),
        loss,
        atol=1e-4,
    )


def scale_by_maximum_likelihood() -> Problem:
    """The scale of a Laplace distribution is the mean absolute deviation."""
    data = np.abs(_diabetes()[1] - np.median(_diabetes()[1]))
    D = torch.from_numpy(data)
    return Problem(
        Positive(),
        torch.ones(1, dtype=F64) * 5,
        lambda y: (D / y + y.log()).mean(),
        [data.mean()],
    )


PROBLEMS = {
    f.__name__: f
    for f in (
        nonnegative_least_squares,
        box_constrained_least_squares,
        isotonic_regression,
        convex_regression,
        scale_by_maximum_likelihood,
    )
}
