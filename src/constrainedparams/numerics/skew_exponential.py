"""The exponential of a skew-Hermitian matrix: a chain of products that is kept and run backwards.

A^2 is Hermitian and A^3 skew-Hermitian, so the one product A^2 (A^2 + t A) holds both A^3 and A^4:
its skew-Hermitian part is t A^3, its Hermitian part A^4. Every further product raises the degree
by 4 (Paterson and Stockmeyer 1973): degree 4, 8, 12, 16 takes 2, 3, 4, 5 products. The adjoint of
a product takes two, that of A^2 only one, because A X + X A = 2 skew(A X) for Hermitian X: forward
and backward together 5, 8, 11, 14, and 3 for each doubling. As the spectrum is imaginary, the
polynomials are fitted to that segment, which allows larger norms than Taylor's (Bader, Blanes,
Casas and Seydaoglu, arXiv 2103.10132).
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .exponential import frechet
from .kernel import Kernel, adjoint, has_tangent, is_traced
from .operation import operator

__all__ = ["expm_skew"]

_Table = tuple[tuple[float, tuple[float, ...]], ...]

# (largest norm, coefficients of 1, x, x^2, ...). On i [-norm, norm] the *derivative* of each
# polynomial is about as near to that of exp as p(0) = 1 allows, since the gradient is made of its
# divided differences; p itself is nearer still. Those for small norms have p'(0) = 1 as well.
# In units of rounding values and derivatives are off by at most 6, and by 6 and 15 in the table of
# single precision for size 16 and more: 4 sqrt(n) is the measure.
# fmt: off
_SINGLE_SMALL: _Table = (
    (0.09, (1.0, 1.0, 0.49999991450938724, 0.1665734173929865, 0.04164556671733046)),
    (1.1, (1.0, 1.0, 0.49999989940929046, 0.16666405512159493, 0.041666110326300125,
           0.008325446713036928, 0.0013877808430219235, 0.00019032912062211867,
           2.3879897952280142e-05)),
    (2.9, (1.0, 0.9999996914334789, 0.4999999224163298, 0.16666578068746643,
           0.04166653601653142, 0.008332590489411642, 0.0013888054371654702,
           0.00019814082695966226, 2.4775836539867212e-05, 2.706478969326114e-06,
           2.714316129626036e-07, 2.0662291106884583e-08, 1.7501114303236018e-09)),
)
_SINGLE: _Table = (
    (0.11, (1.0, 1.0, 0.4999998092541893, 0.16652738535453793, 0.04163515029208974)),
    (1.3, (1.0, 1.0, 0.4999996216185582, 0.16665963402915754, 0.04166516674151248,
           0.008318103490270099, 0.0013867470899619396, 0.00018720606838660439,
           2.3522938424497485e-05)),
    (3.25, (1.0, 0.9999988374375391, 0.4999997068547801, 0.16666400461426034,
            0.04166627302383141, 0.008331552591317626, 0.0013886882933499885,
            0.00019789234697733263, 2.4752173642525153e-05, 2.6803518350282465e-06,
            2.692201083163774e-07, 1.9659285819052662e-08, 1.672293374396502e-09)),
)
_DOUBLE: _Table = (
    (0.0006, (1.0, 1.0, 0.49999999999999983, 0.166666662521231, 0.041666665728692126)),
    (0.09, (1.0, 1.0, 0.4999999999999998, 0.16666666666585997, 0.041666666666495315,
            0.00833333297083528, 0.001388888838080964, 0.00019835756525488484,
            2.4795311756252567e-05)),
    (0.55, (1.0, 1.0, 0.4999999999999998, 0.16666666666662328, 0.04166666666665763,
            0.008333333332113365, 0.001388888888729911, 0.00019841268515895125,
            2.480158595139326e-05, 2.7556634900982296e-06, 2.755672420085088e-07,
            2.4883282748338133e-08, 2.0745544046094232e-09)),
    (1.5, (1.0, 1.0, 0.4999999999999998, 0.16666666666665478, 0.04166666666666419,
           0.008333333333252011, 0.0013888888888785795, 0.00019841269818897706,
           2.480158727996835e-05, 2.7557316047552485e-06, 2.7557316659193846e-07,
           2.5051854638674742e-08, 2.087657709524309e-09, 1.6047514462389755e-10,
           1.1463346221452342e-11, 7.368371550429094e-13, 4.614166075965748e-14)),
)
# fmt: on
# Taylor where the chain itself is differentiated: its derivatives are as near to exp as it is.
_TAYLOR: _Table = ((0.4, tuple(1 / math.factorial(k) for k in range(17))),)

# Bounds are computed on the host for so many matrices, more of them share a simpler one.
_MOST_BOUNDS = 16
# No digit of exp(A) is determined long before |A| = 2^64; beyond, the result is NaN.
_MOST_DOUBLINGS = 64


class _Plan(NamedTuple):
    """What the norm decides: exp(A) = p(A / 2^doublings) ^ (2^doublings)."""

    norm: float  # an upper bound of |A|
    doublings: int
    coefficients: tuple[float, ...]  # of p


class _Powers(NamedTuple):
    """A, A^2, A^3, A^4 of a skew-Hermitian A, and the t of the product that gave the last two."""

    a: Tensor
    a2: Tensor
    a3: Tensor
    a4: Tensor
    t: Tensor | float


def _skew(x: Tensor) -> Tensor:
    return 0.5 * (x - adjoint(x))


def _hermitian(x: Tensor) -> Tensor:
    return 0.5 * (x + adjoint(x))


def _powers(a: Tensor, t: float | None = None) -> _Powers:
    """Both parts of the product lose least when t is about |A|; without a t it is estimated."""
    a2 = a @ a
    weight: Tensor | float
    if t is None:
        size = torch.linalg.matrix_norm(a2, keepdim=True).sqrt()
        weight = (0.5 * size).clamp_min(0.01)
    else:
        weight = t
    both = a2 @ (a2 + weight * a)
    return _Powers(a, a2, _skew(both) / weight, _hermitian(both), weight)


# the norm ----------------------------------------------------------------------------------------


def _bound(n: int, multiplicity: int, norms: list[float]) -> float:
    """An upper bound of |A| from the Frobenius norms of A, A^2, A^3, A^4.

    Let x_i be the squares of the absolute values of the n eigenvalues; the norms are the moments
    up to the fourth of their distribution. No distribution with these moments has a mass above
    1 / K(x) at x, K the sum of the squares of its orthonormal polynomials up to degree 2
    (Christoffel), and the largest x has at least ``multiplicity`` / n (2 for real matrices, whose
    eigenvalues come in pairs). From where K is above n / multiplicity, Newton's method descends
    to the crossing without passing it, as K is convex there.
    """
    limit = n / multiplicity
    top = (norms[3] ** 2 / multiplicity) ** 0.25  # in units of x: max x^4 <= sum x^4 / multiplicity
    if top < 1e-8:  # where powers underflow; |A| < 1e-4 is below all thresholds
        return math.sqrt(top)
    m1, m2, m3, m4 = (f**2 / n / top**k for k, f in enumerate(norms, start=1))
    # Gram-Schmidt of 1, x, x^2; what rounding may have taken from the variances is put back.
    slack = 1e-5
    v1 = max(m2 - m1 * m1, 0.0) + slack
    c = (m3 - m1 * m2) / v1
    v2 = max(m4 - m2 * m2 - c * c * v1, 0.0) + slack
    x = 1.0
    for _ in range(6):
        p1, p2 = x - m1, x * x - m2 - c * (x - m1)
        k = 1 + p1 * p1 / v1 + p2 * p2 / v2
        if k <= limit:
            break
        x -= (k - limit) / (2 * p1 / v1 + 2 * p2 * (2 * x - c) / v2)
    return math.sqrt(top * x)


# the plan ----------------------------------------------------------------------------------------


def _plan(norm: float, table: _Table) -> _Plan:
    """The fewest products: the first polynomial that reaches ``norm``, else halves for the last."""
    for reach, coefficients in table:
        if norm <= reach:
            return _Plan(norm, 0, coefficients)
    reach, coefficients = table[-1]
    if not norm <= reach * 2.0**_MOST_DOUBLINGS:
        return _Plan(norm, 0, (math.nan,) * 5)
    return _Plan(norm, math.ceil(math.log2(norm / reach)), coefficients)


def _rescaled(plan: _Plan, factor: float) -> _Plan:
    """The same for the powers of A / factor in place of those of A / 2^doublings."""
    ratio = math.ldexp(factor, -plan.doublings)
    return plan._replace(coefficients=tuple(c * ratio**k for k, c in enumerate(plan.coefficients)))


def _table(a: Tensor, norm: float) -> _Table:
    """Doublings multiply the error of the polynomial: after 3 of them the finer one is needed."""
    if a.dtype not in (torch.float32, torch.complex64):
        return _DOUBLE
    return _SINGLE if a.shape[-1] >= 16 and norm <= 8 * _SINGLE[-1][0] else _SINGLE_SMALL


def _unit(a: Tensor) -> Tensor:
    """A power of two that keeps the powers of A / unit in range; what is not finite is left out."""
    peaks = torch.linalg.vector_norm(a, math.inf, dim=(-2, -1)).nan_to_num(0.0, 0.0)
    peak = (peaks.amax() * math.sqrt(a.shape[-1])).clamp_min(0.5)
    return peak / torch.frexp(peak).mantissa


def _measured(powers: _Powers, unit: Tensor) -> _Plan:
    """The plan for the powers of A / unit, one for a batch. Only here a device is waited for."""
    a = powers.a
    multiplicity = 1 if a.is_complex() else 2
    norms = torch.stack([torch.linalg.matrix_norm(p) for p in powers[:4]], dim=-1).reshape(-1, 4)
    norms = norms.nan_to_num(0.0, 0.0)
    if len(norms) > _MOST_BOUNDS:
        largest, factor = torch.stack((norms[:, 3].amax(), unit)).tolist()
        norm = (largest**2 / multiplicity) ** 0.125
    else:
        *flat, factor = torch.cat((norms.flatten(), unit.reshape(1))).tolist()
        rows = [flat[i : i + 4] for i in range(0, len(flat), 4)]
        norm = max(_bound(a.shape[-1], multiplicity, row) for row in rows)
    norm = factor * norm
    return _rescaled(_plan(norm, _table(a, norm)), factor)


# there and back ----------------------------------------------------------------------------------


def _identity(a: Tensor) -> Tensor:
    return torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)


def _polynomial(powers: _Powers, c: tuple[float, ...]) -> list[Tensor]:
    """p(A) - I, last, by Horner in A^4: blocks of four coefficients, the highest one first."""
    basis = (_identity(powers.a), *powers[:4])
    sums: list[Tensor] = []
    for low in range(len(c) - 5, -1, -4):
        terms = list(zip(c[low : low + (4 if sums else 5)], basis, strict=False))
        (factor, power), *terms = terms if low else terms[1:]
        total = factor * power
        for factor, power in terms:
            total = torch.add(total, power, alpha=factor)
        sums.append(total + powers.a4 @ sums[-1] if sums else total)
    return sums


def _values(powers: _Powers, plan: _Plan) -> list[Tensor]:
    """exp(A) - I, last, after all that it was made of: sums of the polynomial, then its doublings.

    (I + F)^2 = I + (2 F + F^2): beside the 1, a small F would lose the digits that the doublings
    of a larger matrix in the same batch ask of it.
    """
    values = _polynomial(powers, plan.coefficients)
    for _ in range(plan.doublings):
        f = values[-1]
        values.append(torch.add(f @ f, f, alpha=2))
    return values


def _pullback(powers: _Powers, plan: _Plan, values: list[Tensor], g: Tensor) -> Tensor:
    """The adjoint of the chain; ``values`` without the last."""
    a, a2, _, a4, t = powers
    c = plan.coefficients
    top = len(c) // 4 - 1
    for f in reversed(values[top:]):
        h = adjoint(f)
        g = 2 * g + h @ g + g @ h
    grads = [torch.zeros_like(g)] * 4
    for block in range(top + 1):
        factors = c[4 * block + 1 : 4 * block + (5 if block == top else 4)]
        for k, factor in enumerate(factors):
            grads[k] = torch.add(grads[k], g, alpha=factor)
        if block < top:
            grads[3] = grads[3] + g @ adjoint(values[top - 1 - block])
            g = a4 @ g
    # A^2 and A^4 are Hermitian, A and A^3 skew-Hermitian: so are the gradients that count.
    both = _hermitian(grads[3]) + _skew(grads[2]) / t
    left = a2 @ both
    g2 = _hermitian(grads[1] + left + both @ (a2 - t * a))
    return _skew(grads[0] + t * left - 2 * (a @ g2))


def _retraced(a: Tensor, g: Tensor, norm: float) -> Tensor:
    """The pullback at A, |A| <= norm, as a function of A and g that has derivatives of its own."""
    plan = _plan(norm, _TAYLOR)
    powers = _powers(2.0**-plan.doublings * _skew(a), t=_TAYLOR[0][0])
    return 2.0**-plan.doublings * _pullback(powers, plan, _values(powers, plan)[:-1], g)


# for autograd ------------------------------------------------------------------------------------


def _chain(a: Tensor) -> tuple[_Plan, Tensor, _Powers, list[Tensor]]:
    unit = _unit(a)
    powers = _powers(_skew(a / unit))
    plan = _measured(powers, unit)
    return plan, unit, powers, _values(powers, plan)


class _ExpmSkew(torch.autograd.Function):
    """exp(A) and, for the way back only, what it was made of."""

    @staticmethod
    def forward(a: Tensor) -> tuple[Any, ...]:
        plan, unit, powers, values = _chain(a)
        return _identity(a) + values[-1], plan, unit, *powers, *values[:-1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Any, ...]) -> None:
        value, ctx.plan, *kept = output
        ctx.others = len(output) - 1
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*kept)
        ctx.save_for_backward(*inputs, *kept)
        ctx.save_for_forward(*inputs, value)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Tensor | None:
        if g is None:
            return None
        a, unit, *kept = ctx.saved_tensors
        # What was kept are constants to autograd: a derivative of this needs the chain anew.
        if torch.is_grad_enabled() or has_tangent(a) or has_tangent(g):
            return _retraced(a, g, ctx.plan.norm)
        return _pullback(_Powers(*kept[:5]), ctx.plan, kept[5:], g) / unit

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Any, ...]:
        """L(A, T) = exp(A) L*(A, T exp(A)) for a skew-Hermitian T, L* the pullback."""
        a, value = ctx.saved_tensors
        pulled = _retraced(a, _skew(tangent) @ value, ctx.plan.norm)
        return value @ pulled, *(None,) * ctx.others

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], a: Tensor) -> tuple[Any, Any]:  # noqa: ARG004
        value, plan, unit, *kept = _ExpmSkew.apply(a.movedim(in_dims[0], 0))
        return (value, plan, unit, *kept), (0, None, None, *(0,) * len(kept))


def _there(a: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
    chain = _chain(a)
    return _identity(a) + chain[-1][-1], chain


def _back(g: Tensor, _: tuple[Tensor, ...], chain: tuple[Any, ...]) -> tuple[Tensor]:
    plan, unit, powers, values = chain
    return (_pullback(powers, plan, values[:-1], g) / unit,)


def _again(g: Tensor, a: Tensor) -> tuple[Tensor]:
    return (_skew(frechet(-_skew(a), g)),)


_operator = operator("expm_skew", Kernel(_there, _back, _again))


def expm_skew(a: Tensor) -> Tensor:
    """exp((A - A^H) / 2) for a batch of matrices, differentiable to any order.

    For a skew-Hermitian A this is exp(A), unitary, with the skew-Hermitian part of its gradient;
    other A are read through their skew-Hermitian part.

    Args:
        a: (..., n, n), real or complex, in single or double precision.

    Returns:
        (..., n, n). Its error grows with |A|, as that of any algorithm: from |A| = 1/eps on no
        digit is determined, and the result need not be finite. Where A is not finite, it is not.
    """
    if a.numel() == 0:
        return a.clone()
    return _operator(a) if is_traced(a) else _ExpmSkew.apply(a)[0]
