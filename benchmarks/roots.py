"""Roots of Hermitian matrices in the benchmark of accuracy, by eigenvalues in double precision.

An oracle has divided differences in sums of roots. The peer is torch's derivative of eigenvectors.
"""

from collections.abc import Callable
from typing import Any

import mpmath
import torch
from torch import Tensor

from constrainedparams.numerics.polar import inverse_square_root
from constrainedparams.numerics.roots import hypotenuse

from .points import CONDITIONS, NORMS, Function, Map, Point, hermitian, singular
from .truths import Exact, Oracle, Pull

__all__ = ["MAPS"]


def _oracle(values: Function, slopes: Callable[[Tensor, Tensor], Tensor]) -> Oracle:
    def oracle(x: Tensor) -> tuple[Tensor, Pull]:
        e, v = torch.linalg.eigh(0.5 * (x + x.mT))
        weights = slopes(e[:, None], e)

        def pull(g: Tensor) -> Tensor:
            return v @ (weights * (v.mT @ (0.5 * (g + g.mT)) @ v)) @ v.mT

        return (v * values(e)) @ v.mT, pull

    return oracle


def _by_torch(values: Function) -> Function:
    def f(x: Tensor) -> Tensor:
        e, v = torch.linalg.eigh(0.5 * (x + x.mT))
        return (v * values(e)) @ v.mT

    return f


def _exactly(value: Callable[[Any], Any]) -> Exact:
    def f(x: Any) -> Any:
        e, q = mpmath.eigsy((x + x.T) / 2)
        return q * mpmath.diag([value(t) for t in e]) * q.T

    return f


def _height(e: Tensor) -> Tensor:
    return (1 + e**2).sqrt()


def _height_slopes(p: Tensor, q: Tensor) -> Tensor:
    return (p + q) / (_height(p) + _height(q))


def _inverse_slopes(p: Tensor, q: Tensor) -> Tensor:
    return -p.rsqrt() * q.rsqrt() / (p.sqrt() + q.sqrt())


def _definite(at: Point, dtype: torch.dtype) -> Tensor:
    """U s U^T for the singular values s of other maps."""
    u, s, _ = torch.linalg.svd(singular(at, dtype))
    return (u * s) @ u.mT


MAPS: dict[str, Map] = {
    "root of I + S^2": Map(
        hypotenuse,
        {"torch": _by_torch(_height)},
        _oracle(_height, _height_slopes),
        hermitian,
        _exactly(lambda e: mpmath.sqrt(1 + e * e)),
        kinds={"norm": NORMS, "repeated": (1.0,)},
    ),
    "inverse square root": Map(
        lambda x: inverse_square_root(0.5 * (x + x.mT)),
        {"torch": _by_torch(torch.rsqrt)},
        _oracle(torch.rsqrt, _inverse_slopes),
        _definite,
        _exactly(lambda e: 1 / mpmath.sqrt(e)),
        kinds={"condition": CONDITIONS, "norm": (1e-6, 30.0), "repeated": (1.0,)},
    ),
}
