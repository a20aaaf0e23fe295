"""Maps whose formula is the oracle of the benchmark of accuracy: stable systems, correlation.

The formula in torch, differentiated by autograd, is the peer in single precision. In double it is
the oracle: it divides by nothing that is small.
"""

import math
from typing import Any

import mpmath
import scipy.linalg
import torch
from torch import Tensor
from torch.nn import functional as F

from constrainedparams import Correlation, CorrelationCholesky, Hurwitz, Schur
from constrainedparams.numerics import correlation
from constrainedparams.numerics.definite import gram
from constrainedparams.numerics.elementary import precise

from . import truths
from .points import PRODUCTS, Function, Map, Point, halves, singular, triangle
from .truths import Oracle, Pull

__all__ = ["MAPS"]


def _differentiated(formula: Function) -> Oracle:
    def oracle(x: Tensor) -> tuple[Tensor, Pull]:
        leaf = x.clone().requires_grad_()
        y = formula(leaf)
        return y.detach(), lambda g: torch.autograd.grad(y, leaf, g, retain_graph=True)[0]

    return oracle


# stable linear systems ----------------------------------------------------------------------------


def _schur(x: Tensor) -> Tensor:
    """R^-1 x, R^T R = I + x^T x."""
    l = torch.linalg.cholesky(torch.eye(len(x), dtype=x.dtype) + x.mT @ x)
    return torch.linalg.solve_triangular(l.mT, x, upper=True)


def _schur_exactly(x: Any) -> Any:
    return mpmath.inverse(mpmath.cholesky(mpmath.eye(x.rows) + x.T * x).T) * x


def _hurwitz(x: Tensor) -> Tensor:
    """(S - I) L L^T, S above the diagonal of x, L the rest."""
    l, s = x.tril(-1) + torch.diag(F.softplus(x.diagonal())), x.triu(1)
    return (s - s.mT - torch.eye(len(x), dtype=x.dtype)) @ l @ l.mT


def _hurwitz_exactly(x: Any) -> Any:
    return (-truths.dense_exactly(x.T) - mpmath.eye(x.rows)) * truths.definite_exactly(x)


def _beyond_circle(y: Tensor) -> float:
    return max(0.0, float(abs(scipy.linalg.eigvals(y.numpy())).max()) - 1)


def _right_of_axis(y: Tensor) -> float:
    real = float(scipy.linalg.eigvals(y.numpy()).real.max())
    return max(0.0, real / float(torch.linalg.norm(y)))


# correlation --------------------------------------------------------------------------------------


def _rows(x: Tensor) -> Tensor:
    r = x.tril(-1) + torch.eye(len(x), dtype=x.dtype)
    return r / r.square().sum(1, keepdim=True).sqrt()


def _gram_of_rows(x: Tensor) -> Tensor:
    l = _rows(x)
    return l @ l.mT


def _without_margin(x: Tensor) -> Tensor:
    """As Correlation."""
    y = gram(correlation.factor_of_rows(precise(x)))
    return correlation.with_unit_diagonal(y.to(x.dtype))


def _rows_exactly(x: Any) -> Any:
    l = mpmath.eye(x.rows)
    for i in range(x.rows):
        for j in range(i):
            l[i, j] = x[i, j]
        l[i, :] = l[i, :] / mpmath.norm(l[i, :])
    return l


def _gram_of_rows_exactly(x: Any) -> Any:
    l = _rows_exactly(x)
    return l * l.T


def _partial(at: Point, dtype: torch.dtype) -> Tensor:
    """Entries of that size; 0; a diagonal of L from 1 down to the root of 1 / condition."""
    x = triangle(at, dtype)
    if at.kind != "condition":
        return x
    l = torch.logspace(0, -0.5 * math.log10(at.number), len(x), dtype=torch.float64)
    w = F.normalize(torch.randn_like(x).tril(-1), dim=1)
    return w * (1 / l**2 - 1).clamp_min(0).sqrt()[:, None]


def _lengths(y: Tensor) -> float:
    return float((torch.linalg.vector_norm(y, dim=1) - 1).abs().max())


def _no_correlation(y: Tensor) -> float:
    """The largest of errors of the diagonal, asymmetry, and what eigenvalues are below 0."""
    off = [(y.diagonal() - 1).abs().max(), (y - y.mT).abs().max(), -torch.linalg.eigvalsh(y)[0]]
    return max(0.0, *map(float, off))


# the maps -----------------------------------------------------------------------------------------


def _by_formula(ours: Function, formula: Function, exactly: truths.Exact, **known: Any) -> Map:
    oracle = _differentiated(formula)
    return Map(ours, {"torch": formula}, oracle, exactly=exactly, kinds=PRODUCTS, **known)


MAPS: dict[str, Map] = {
    "Schur stable": _by_formula(
        Schur(), _schur, _schur_exactly, draw=singular, distance=_beyond_circle
    ),
    "Hurwitz stable": _by_formula(
        Hurwitz(), _hurwitz, _hurwitz_exactly, draw=halves, distance=_right_of_axis
    ),
    "correlation, L": _by_formula(
        CorrelationCholesky(), _rows, _rows_exactly, draw=_partial, distance=_lengths
    ),
    "correlation, L L^T": _by_formula(
        _without_margin,
        _gram_of_rows,
        _gram_of_rows_exactly,
        draw=_partial,
        distance=_no_correlation,
        on_set=Correlation(),
    ),
}
