"""The maps of one kernel that the benchmark of accuracy measures, and what others offer."""

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from constrainedparams import DoublyStochastic, Orthogonal, PositiveDefinite, SpectralBall
from constrainedparams.numerics.contraction import contraction
from constrainedparams.numerics.definite import factor, gram
from constrainedparams.numerics.exponential import expm
from constrainedparams.numerics.hermitian_exponential import expm_hermitian

from . import composed, formulas, roots, solutions, truths
from .points import (
    CONDITIONS,
    NORMS,
    PRODUCTS,
    SQUARE,
    TALL,
    Function,
    Map,
    Point,
    Shape,
    general,
    hermitian,
    logits,
    singular,
    tangent,
    triangle,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own use of deprecated parts of torch
    import geotorch

__all__ = ["MAPS", "Map", "Point"]


# how far y is from the set ------------------------------------------------------------------------


def _defect(y: Tensor) -> float:
    return float(torch.linalg.norm(y.mH @ y - torch.eye(y.shape[1])))


def _indefinite(y: Tensor) -> float:
    """Asymmetry, and how far the smallest eigenvalue is below 0, both over the norm."""
    size = torch.linalg.norm(y)
    below = (-torch.linalg.eigvalsh(0.5 * (y + y.mH))[0]).clamp_min(0)
    return float((torch.linalg.norm(y - y.mH) + below) / size)


def _outside(y: Tensor) -> float:
    return max(0.0, float(torch.linalg.matrix_norm(y, 2)) - 1)


def _sums(y: Tensor) -> float:
    """The largest error of a sum."""
    return max(float((y.sum(0) - 1).abs().max()), float((y.sum(1) - 1).abs().max()))


# what others offer --------------------------------------------------------------------------------


def _torch(name: str) -> Function:
    def f(x: Tensor) -> Tensor:
        layer = nn.Linear(x.shape[1], x.shape[0], bias=False)
        parametrizations.orthogonal(layer, "weight", name, use_trivialization=False)
        y: Tensor = layer.parametrizations.weight[0](x)  # type: ignore[union-attr,operator]
        return y

    return f


def _householder(x: Tensor) -> Tensor:
    """With the signs of ours on the diagonal, where torch reads them."""
    signs = torch.eye(*x.shape, dtype=x.dtype)
    return _torch("householder")(x.tril(-1) - signs)


def _geotorch(triv: str) -> Function:
    """With the identity for its base point."""

    def f(x: Tensor) -> Tensor:
        square = x.shape[0] == x.shape[1]
        made = (geotorch.SO if square else geotorch.Stiefel)(tuple(x.shape), triv=triv)
        made.base.copy_(torch.eye(x.shape[0]))
        y: Tensor = made(x)
        return y

    return f


def _exp_skew(x: Tensor) -> Tensor:
    """torch's orthogonal counts an imaginary diagonal twice."""
    a = x.tril(-1)
    return torch.matrix_exp(a - a.mH + torch.diag(1j * x.diagonal().imag))


def _polar(x: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return u @ vh


def _ball(x: Tensor) -> Tensor:
    l = torch.linalg.cholesky(torch.eye(x.shape[1]) + x.mT @ x)
    return torch.linalg.solve_triangular(l, x.mT, upper=False).mT


def _definite(x: Tensor) -> Tensor:
    l = x.tril(-1) + torch.diag(F.softplus(x.diagonal()))
    return l @ l.mT


def _sinkhorn(x: Tensor) -> Tensor:
    """A hundred iterations on logarithms, as one writes them down."""
    for _ in range(100):
        x = x - torch.logsumexp(x, 1, keepdim=True)
        x = x - torch.logsumexp(x, 0, keepdim=True)
    return x.exp()


# the maps -----------------------------------------------------------------------------------------

_ANGLES = {"norm": NORMS, "repeated": (1.0,)}
_SINGULAR = {"condition": CONDITIONS, "norm": (1e-6, 30.0), "repeated": (1.0,)}


def _orthogonal(name: str, shapes: tuple[Shape, ...]) -> Map:
    exp = name == "exp"
    return Map(
        Orthogonal(name),  # type: ignore[arg-type]
        {
            "torch": _torch("matrix_exp" if exp else name),
            "geotorch": _geotorch("expm" if exp else name),
        },
        truths.exp_skew if exp else truths.cayley,
        tangent,
        truths.exp_skew_exactly if exp else truths.cayley_exactly,
        _defect,
        kinds=_ANGLES,
        shapes=shapes,
    )


def _nearest(shapes: tuple[Shape, ...]) -> Map:
    return Map(
        Orthogonal("polar"),
        {"torch": _polar},
        truths.polar,
        singular,
        truths.polar_exactly,
        _defect,
        kinds=_SINGULAR,
        shapes=shapes,
    )


def _reflected(shapes: tuple[Shape, ...], dtype: torch.dtype = torch.float32) -> Map:
    return Map(
        Orthogonal("householder"),
        {"torch": truths.one_by_one if dtype.is_complex else _householder},
        truths.reflectors,
        tangent,
        None if dtype.is_complex else truths.reflectors_exactly,
        _defect,
        kinds=_ANGLES,
        dtype=dtype,
        shapes=shapes,
    )


def _exp_definite(dtype: torch.dtype, shapes: tuple[Shape, ...]) -> Map:
    return Map(
        expm_hermitian,
        {"torch": lambda x: torch.matrix_exp(0.5 * (x + x.mH))},
        truths.exp_hermitian,
        hermitian,
        None if dtype.is_complex else truths.exp_hermitian_exactly,
        _indefinite,
        PositiveDefinite(map="exp"),
        _ANGLES,
        dtype,
        shapes,
    )


MAPS: dict[str, Map] = {
    "exp of skew, n x n": _orthogonal("exp", SQUARE),
    "exp of skew, n x k": _orthogonal("exp", TALL),
    "exp of skew-Hermitian, complex": Map(
        Orthogonal(),
        {"torch": _exp_skew},
        truths.exp_skew,
        tangent,
        distance=_defect,
        kinds=_ANGLES,
        dtype=torch.complex64,
        shapes=SQUARE,
    ),
    "Cayley, n x n": _orthogonal("cayley", SQUARE),
    "Cayley, n x k": _orthogonal("cayley", TALL),
    "polar, n x n": _nearest(SQUARE),
    "polar, n x k": _nearest(TALL),
    "Householder, n x n": _reflected(SQUARE),
    "Householder, n x k": _reflected(TALL),
    "Householder, complex": _reflected(SQUARE, torch.complex64),
    "exp of symmetric": _exp_definite(torch.float32, SQUARE),
    "exp of Hermitian, complex": _exp_definite(torch.complex64, SQUARE),
    "exp of any matrix": Map(
        expm,
        {"torch": torch.matrix_exp},
        truths.exp_general,
        general,
        truths.mpmath.expm,
        kinds=_ANGLES,
    ),
    "spectral ball": Map(
        lambda x: contraction(x)[0],
        {"torch": _ball},
        truths.ball,
        singular,
        truths.ball_exactly,
        _outside,
        SpectralBall(),
        PRODUCTS,
    ),
    "positive definite, L L^T": Map(
        lambda x: gram(factor(x)),
        {"torch": _definite},
        truths.definite,
        triangle,
        truths.definite_exactly,
        _indefinite,
        PositiveDefinite(),
        PRODUCTS,
    ),
    "doubly stochastic": Map(
        DoublyStochastic(),
        {"torch": _sinkhorn},
        truths.scaled,
        logits,
        truths.scaled_exactly,
        _sums,
        kinds={"norm": (*NORMS[:-1], 10.0)},
    ),
    **formulas.MAPS,
    **composed.MAPS,
    **roots.MAPS,
    **solutions.MAPS,
}
