"""The same job done by other libraries: one value of the map and its gradient, or one retraction.

Each entry makes a step (a function without arguments) for a weight of n x k in single precision.
A library that is not installed has no column; ``pip install constrainedparams[bench]`` brings all.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from .pairs import Step

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their own use of deprecated parts of torch
    import geoopt
    import geotorch

__all__ = ["PEERS", "Peer"]

Peer = Callable[[int, int], Step]


def _parametrized(register: Callable[[nn.Module], Any], n: int, k: int) -> Step:
    """Read the weight of a parametrized layer, pull a gradient back to its raw tensors."""
    layer = nn.Linear(k, n, bias=False)  # its weight is n x k
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        register(layer)
    g = torch.randn(n, k)
    raw = [p for p in layer.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in raw:  # off the start, below the diagonal, where householder keeps its signs
            p.add_((0.5 * n**-0.5 * torch.randn_like(p)).tril(-1) if p.ndim > 1 else 0.0)
    return lambda: torch.autograd.grad(layer.weight, raw, g, allow_unused=True)


def _torch(name: str) -> Peer:
    return lambda n, k: _parametrized(
        lambda layer: parametrizations.orthogonal(layer, orthogonal_map=name), n, k
    )


def _geotorch(constraint: str, **options: Any) -> Peer:
    register = getattr(geotorch, constraint)
    return lambda n, k: _parametrized(lambda layer: register(layer, "weight", **options), n, k)


def _retraction(manifold: Callable[[], Any], start: Callable[[int, int], Tensor]) -> Peer:
    """What a Riemannian optimiser does for one step: Riemannian gradient, then retraction."""

    def make(n: int, k: int) -> Step:
        m, y, g = manifold(), start(n, k), torch.randn(n, k)
        return lambda: m.retr(y, -1e-2 * m.egrad2rgrad(y, g))

    return make


def _orthonormal(n: int, k: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, k))[0]


def _definite(n: int, _: int) -> Tensor:
    a = torch.randn(n, n)
    return a @ a.T / n + torch.eye(n)


def _bistochastic(n: int, _: int) -> Tensor:
    a = torch.rand(n, n, dtype=torch.float64) + 0.5
    for _ in range(200):
        a = a / a.sum(0)
        a = a / a.sum(1, keepdim=True)
    return a.float()


def _spectral(n: int, k: int) -> Step:
    return _parametrized(parametrizations.spectral_norm, n, k)


def _sinkhorn(n: int, k: int) -> Step:
    """Twenty iterations on logarithms, differentiated as they are: sums up to 5 % off."""
    x, g = torch.randn(n, k).requires_grad_(), torch.randn(n, k)

    def step() -> Any:
        y = x
        for _ in range(20):
            y = y - y.logsumexp(-1, keepdim=True)
            y = y - y.logsumexp(-2, keepdim=True)
        return torch.autograd.grad(y.exp(), x, g)

    return step


def _rows(n: int, _: int) -> Step:
    """L L^T, rows of L over their lengths, all in single precision: gradients lose all digits."""
    x, g = torch.randn(n, n).requires_grad_(), torch.randn(n, n)

    def step() -> Any:
        l = nn.functional.normalize(x.tril(-1) + torch.eye(n), dim=-1)
        return torch.autograd.grad(l @ l.mT, x, g)

    return step


def _matrix_exp(n: int, _: int) -> Step:
    x, g = (0.6 * n**-0.5 * torch.randn(n, n)).requires_grad_(), torch.randn(n, n)
    return lambda: torch.autograd.grad(torch.linalg.matrix_exp(x), x, g)


PEERS: dict[str, dict[str, Peer]] = {
    "orthonormal": {
        "torch matrix_exp": _torch("matrix_exp"),
        "torch cayley": _torch("cayley"),
        "torch householder": _torch("householder"),
        "geotorch expm": _geotorch("orthogonal"),
        "geotorch cayley": _geotorch("orthogonal", triv="cayley"),
        "geoopt retraction": _retraction(geoopt.EuclideanStiefel, _orthonormal),
        "geoopt Cayley retraction": _retraction(geoopt.CanonicalStiefel, _orthonormal),
    },
    "reflectors": {"torch householder": _torch("householder")},
    "positive definite": {
        "geotorch": _geotorch("positive_definite"),
        "geoopt retraction": _retraction(geoopt.SymmetricPositiveDefinite, _definite),
    },
    "correlation": {"formula in single precision": _rows},
    "spectral norm": {"torch spectral_norm": _spectral},
    "exponential": {"torch.matrix_exp": _matrix_exp},
    "doubly stochastic": {
        "20 iterations": _sinkhorn,
        "geoopt retraction": _retraction(geoopt.BirkhoffPolytope, _bistochastic),
    },
}
