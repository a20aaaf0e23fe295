"""The exponential of a matrix: a chain of products that is kept and run backwards.

Taylor polynomials of degree 4, 8, 12, 18 in 2, 3, 4, 5 products (Bader, Blanes and Casas,
Mathematics 7, 2019; that of degree 8 is Sastre's), of A / 2^s, then s squarings. Each product P =
L R of the chain has two in its adjoint, dL = dP R^H and dR = L^H dP, so the way back takes as much
as two ways there, and it is linear in what comes in: how large that is decides nothing.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .kernel import Kernel, adjoint, is_traced
from .operation import operator

__all__ = ["expm", "frechet"]

_Factors = tuple[float, ...]


class _Scheme(NamedTuple):
    """A polynomial: products one after the other of sums of what is there, then one more sum.

    What is there: I, A, A^2, (A^3,) and the products. Sums are given by their coefficients.
    """

    single: float  # the largest norm of A for single precision, and for double
    double: float
    products: tuple[tuple[_Factors, _Factors], ...]
    total: _Factors  # of all but I: the polynomial without its 1


_SQUARE = ((0.0, 1.0), (0.0, 1.0))
_CUBE = ((0.0, 0.0, 1.0), (0.0, 1.0))

# Up to these norms the *derivative* of the polynomial is that of exp to half a rounding unit, also
# relative to exp(-norm). Free parameters of degree 12 and 18 are those of Bader, Blanes and Casas,
# moved such that no product but the last sum has a 1 to cancel, and polished in 50 digits.
# fmt: off
_SCHEMES = (
    _Scheme(0.0342, 0.000227, (_SQUARE, ((0.0, 0.0, 1.0), (0.0, 1 / 6, 1 / 24))),
            (0.0, 1.0, 0.5, 1.0)),
    _Scheme(0.442, 0.0379, (
        _SQUARE,
        ((0.0, 0.0, 1.0), (0.0, 0.10836465678522780852, 0.027091164196306952131)),
        ((0.0, 0.0, 2 / 3, 1.0), (0.54676145797072405251, 0.16112557339541759283,
                                  0.014090917158378207731, 0.033792797010870504141)),
    ), (0.0, 1.0, 0.13549236135285063166, 0.0, 1.0)),
    _Scheme(1.188, 0.242, (
        _SQUARE,
        _CUBE,
        2 * ((0.0, -0.13181061013830184016, -0.020278555405892590793, -0.0067595184686308635978),),
        ((5.6797563572421213367, 1.1992679041713223157 + 0.055027984399308985576,
          0.011792962409929970317 + 0.09351590770536261043,
          0.01108844528519167989 + 0.0061070052889834025576, 1.0),
         (0.0, 0.055027984399308985576, 0.09351590770536261043, 0.0061070052889834025576, 1.0)),
    ), (0.0, 0.68745445578180451363, -0.19884924267068444507, -0.044222598444663095091, 0.0, 1.0)),
    _Scheme(2.576, 0.929, (
        _SQUARE,
        _CUBE,
        2 * ((0.0, 0.0, 0.0, 1.0),),
        ((0.0, -0.10036558103014462087, -0.0080292464824115696693, -0.00089213849804572996325),
         (0.0, 0.0, -0.092336461936711858493, -0.016936493900208171575,
          -0.000014008679818203615861)),
        ((-11.148502971774368372, 1.6801581387890619718 - 0.067640451907138190756,
          0.05717798464788655127 + 0.067596130177045964608,
          -0.0069821012248805208429 + 0.029555257042931552743,
          0.000033497501708607053831 - 0.000013918025751606070112, 1.0),
         (0.0, -0.067640451907138190756, 0.067596130177045964608, 0.029555257042931552743,
          -0.000013918025751606070112, 1.0)),
    ), (0.0, 0.24591022090110863764, 1.362667083208190483, 0.49892102569169427267,
        -0.00064092743005853663879, 0.0, 1.0)),
)
# fmt: on
# No digit of exp(A) is determined long before |A| = 2^128; beyond, the result is not a number.
_MOST_SQUARINGS = 128


class _Plan(NamedTuple):
    """What the norms decide for a batch; each matrix is squared as often as it needs."""

    scheme: int
    squarings: int


# the norm ----------------------------------------------------------------------------------------


def _norms(a: Tensor) -> Tensor:
    """The norms of rows, columns and Frobenius (..., 3), 0 where they are not finite."""
    size = a.abs()
    found = (size.sum(-1).amax(-1), size.sum(-2).amax(-1), torch.linalg.matrix_norm(a))
    return torch.stack(found, dim=-1).nan_to_num(0.0, 0.0, 0.0)


def _reach_of_two(one: Tensor, two: Tensor) -> Tensor:
    """An upper bound of |A^k|^(1/k), k > 1, in whichever norm it is smallest (...).

    Every k is a sum of 2 and 3, and |A^3| <= |A| |A^2|: in place of |A| it bounds what is left out
    of the series (Al-Mohy and Higham 2009).
    """
    return torch.maximum(two ** (1 / 2), (one * two) ** (1 / 3)).amin(-1)


def _reach_of_three(two: Tensor, three: Tensor) -> Tensor:
    """The same for k > 11, from |A^2| and |A^3|: at most two of the summands of k are a 2."""
    d2, d3 = two ** (1 / 2), three ** (1 / 3)
    ratio = (d2 / d3.clamp_min(torch.finfo(d3.dtype).tiny)).clamp_min(1.0)
    return torch.where(d3 > 0, d3 * ratio ** (4 / 13), d3).amin(-1)


def _unit(a: Tensor) -> Tensor:
    """Powers of two that keep the powers of A / unit in range, 1 where A is not finite."""
    peak = torch.linalg.vector_norm(a, math.inf, dim=(-2, -1), keepdim=True)
    peak = peak.nan_to_num(0.0, 0.0).clamp_min(0.5)
    return peak / torch.frexp(peak).mantissa


# there and back ----------------------------------------------------------------------------------


def _sum(factors: _Factors, terms: list[Tensor]) -> Tensor:
    """The sum of ``factors`` times I and ``terms``."""
    result: Tensor | None = None
    for factor, term in zip(factors[1:], terms, strict=False):
        if factor:
            part = term if factor == 1 else factor * term
            result = part if result is None else result + part
    assert result is not None
    if factors[0]:
        torch.diagonal(result := result.clone(), dim1=-2, dim2=-1).add_(factors[0])
    return result


def _planned(a: Tensor) -> tuple[_Plan, Tensor, list[Tensor]]:
    """The plan, A / 2^s over A for each matrix, and the powers of A / 2^s. Waits for a device."""
    unit = _unit(a)
    powers = [a / unit]
    powers.append(powers[0] @ powers[0])
    norms = [_norms(p) for p in powers]
    size = unit[..., 0, 0]
    reach = size * _reach_of_two(*norms)
    is_single = a.dtype in (torch.float32, torch.complex64)
    limits = [s.single if is_single else s.double for s in _SCHEMES]
    largest = float(reach.amax())
    if largest > limits[1]:
        powers.append(powers[1] @ powers[0])
        reach = torch.minimum(reach, size * _reach_of_three(norms[1], _norms(powers[2])))
        largest = float(reach.amax())
    fitting = [i for i, limit in enumerate(limits) if largest <= limit]
    scheme = min(max(fitting[0], 2 if len(powers) > 2 else 0) if fitting else 3, 3)
    count = torch.log2(reach / limits[scheme]).ceil().clamp_min(0)
    squarings = math.ceil(max(0.0, math.log2(largest / limits[scheme]))) if largest else 0
    if squarings > _MOST_SQUARINGS:
        count, squarings = torch.full_like(count, torch.nan), 0
    scale = torch.exp2(-count)[..., None, None]
    for k in range(len(powers)):
        for _ in range(k + 1):  # not by step^k, which may overflow where A^k is 0
            powers[k] = powers[k] * (unit * scale)
    return _Plan(scheme, squarings), scale, powers


def _there(a: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
    plan, scale, terms = _planned(a)
    scheme = _SCHEMES[plan.scheme]
    for left, right in scheme.products[len(terms) - 1 :]:
        l = _sum(left, terms)
        terms.append(l @ (l if left is right else _sum(right, terms)))
    value = _sum((1.0, *scheme.total[1:]), terms)
    values = []
    for k in range(plan.squarings):
        values.append(value)
        value = torch.where(scale < 1.5 * 0.5 ** (k + 1), value @ value, value)
    return value, (plan, scale, *terms, *values)


def _back(g: Tensor, _: tuple[Tensor, ...], kept: tuple[Any, ...]) -> tuple[Tensor]:
    plan, scale, *rest = kept
    scheme = _SCHEMES[plan.scheme]
    terms, values = rest[: 1 + len(scheme.products)], rest[1 + len(scheme.products) :]
    for k in reversed(range(plan.squarings)):
        h = adjoint(values[k])
        g = torch.where(scale < 1.5 * 0.5 ** (k + 1), h @ g + g @ h, g)
    grads: list[Any] = [None] * len(terms)

    def add(factors: _Factors, g: Tensor) -> None:
        for i, factor in enumerate(factors[1:]):
            if factor:
                part = g if factor == 1 else factor * g
                grads[i] = part if grads[i] is None else grads[i] + part

    add(scheme.total, g)
    for i in reversed(range(len(scheme.products))):
        left, right = scheme.products[i]
        known, g = terms[: 1 + i], grads[1 + i]
        l = _sum(left, known)
        r = l if left is right else _sum(right, known)
        add(left, g @ adjoint(r))
        add(right, adjoint(l) @ g)
    return (scale * grads[0],)


def _again(g: Tensor, a: Tensor) -> tuple[Tensor]:
    return (frechet(adjoint(a), g),)


_EXPM = Kernel(_there, _back, _again)
_operator = operator("expm", _EXPM)


def expm(a: Tensor) -> Tensor:
    """exp(A) for a batch of square matrices, differentiable to any order.

    Args:
        a: (..., n, n), real or complex, in single or double precision.

    Returns:
        (..., n, n). The accuracy of the derivative does not depend on the size of the incoming
        gradient; that of ``torch.linalg.matrix_exp`` does (4th digit wrong for 1e3 in float32).
    """
    if a.numel() == 0:
        return a.clone()
    return _operator(a) if is_traced(a) else _EXPM(a)


def frechet(a: Tensor, g: Tensor, exp: Callable[[Tensor], Tensor] = expm) -> Tensor:
    """L(A, G): the derivative of exp at A in the direction G, linear in G, with derivatives.

    exp([[A, G], [0, A]]) = [[exp(A), L(A, G)], [0, exp(A)]] (Mathias 1996). G is divided by its
    largest entry s, and s multiplied back: exact by linearity, so s is a constant to autograd.
    """
    n = a.shape[-1]
    if n == 0:
        return g
    with torch.no_grad():
        peak = g.abs().amax(dim=(-2, -1), keepdim=True)
        scale = peak.clamp_min(torch.finfo(g.dtype).tiny)
    upper = torch.cat((a, g / scale), dim=-1)
    lower = torch.cat((torch.zeros_like(a), a), dim=-1)
    return scale * exp(torch.cat((upper, lower), dim=-2))[..., :n, n:]
