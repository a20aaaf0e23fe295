"""Tall orthonormal columns from an n x k matrix: exp and Cayley map, nothing larger than 2k x 2k.

With A = [[S, -R^H], [R, 0]], the columns [I; 0] and [0; R] span an invariant subspace of A, in
which A is M = [[S, -P], [I, 0]], P = R^H R. Hence f(A) I_{n x k} = [E; R F] with [E; F] the first
block column of f(M): k x k matrices, functions of S and P. The way back is that of the two, plus

    gP = the gradient of F and E there,  gF = R^H g2,  gR = g2 F^H + R (gP + gP^H).

P has the squares of the singular values of R, which single precision does not hold beside each
other: small matrices are in double precision, and what is n x k goes through it block by block.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .elementary import precise, real_diagonal
from .exponential import expm
from .kernel import Kernel, adjoint, by_formula, is_traced
from .operation import operator
from .skew import skew, skew_adjoint
from .skew_exponential import _DOUBLE, _MOST_BOUNDS, _SINGLE_SMALL, _bound, _Plan, _plan, _rescaled

__all__ = [
    "CAYLEY",
    "EXP",
    "cayley_tall",
    "double_gram",
    "double_product",
    "exponential_tall",
    "sum_of_products",
]


# n x k in double precision, block by block --------------------------------------------------------


def blocks(r: Tensor) -> tuple[Tensor, ...]:
    """``r`` in up to 8 groups of rows: copies of one, and products with it, are small and gone."""
    return r.split(max(512, -(-r.shape[-2] // 8)), dim=-2)


def double_gram(r: Tensor) -> Tensor:
    """r^H r in double precision."""
    wide = map(precise, blocks(r))
    parts = [adjoint(b) @ b for b in wide]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def double_product(r: Tensor, small: Tensor, top: Tensor | None = None) -> Tensor:
    """[top; r small] in the dtype of r, ``top`` and ``small`` in double precision."""
    above = 0 if top is None else top.shape[-2]
    y = r.new_empty((*r.shape[:-2], above + r.shape[-2], small.shape[-1]))
    if top is not None:
        y[..., :above, :] = top
    for part, block in zip(blocks(y.narrow(-2, above, r.shape[-2])), blocks(r), strict=True):
        part.copy_(precise(block) @ small)
    return y


def sum_of_products(
    a: Tensor,
    left: Tensor,
    b: Tensor,
    right: Tensor,
    top: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """[top; a left + b right] without another array of n rows, in ``out``, whose end may be a."""
    above = 0 if top is None else top.shape[-2]
    y = a.new_empty((*a.shape[:-2], above + a.shape[-2], a.shape[-1])) if out is None else out
    if top is not None:
        y[..., :above, :] = top
    for part, p, q in zip(
        blocks(y.narrow(-2, above, a.shape[-2])), blocks(a), blocks(b), strict=True
    ):
        part.copy_((p @ left).add_(q @ right))
    return y


# functions of S and P -----------------------------------------------------------------------------


class _Core(NamedTuple):
    """(S, P) -> (E, F, kept) there, (gE, gF, kept) -> (gS, gP) back, for single or double digits.

    For a skew-Hermitian S and a Hermitian P; of gS and gP only these parts count.
    """

    there: Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor, tuple[Any, ...]]]
    back: Callable[[Tensor, Tensor, tuple[Any, ...]], tuple[Tensor, Tensor]]


def _identity(s: Tensor) -> Tensor:
    return torch.eye(s.shape[-1], dtype=s.dtype, device=s.device).expand(s.shape)


def _cayley_there(s: Tensor, p: Tensor, single: bool) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """E = 2 H - I, F = H with H = (I - S/2 + P/4)^-1, the inverse of a Schur complement."""
    del single
    one = _identity(s)
    h = torch.linalg.inv_ex(one - 0.5 * s + 0.25 * p)[0]
    return 2 * h - one, h, (h,)


def _cayley_back(ge: Tensor, gf: Tensor, kept: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    (h,) = kept
    gn = adjoint(h) @ (2 * ge + gf) @ adjoint(h)  # minus the gradient of what h is the inverse of
    return 0.5 * gn, -0.25 * gn


# The powers of M have [a_j; a_(j-1)] as their first block column, a_0 = I, a_1 = S and
# a_(j+1) = a_j S - a_(j-1) P: two k x k products for each degree, where a full product has eight.
# A polynomial of M with the first block column [u; v] is [[u, -v P], [v, u - v S]]. For M / f read
# S / f, P / f^2 and f F, which is a change of basis. M is similar to the skew-Hermitian A on the
# subspace, so that polynomials and bounds of the norm are those of its exponential.


def _norms(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Frobenius norms of A, A^2, A^3, A^4 (..., 4); b_j = a_j P.

    A^j = [[a_j, -a_(j-1) T^H], [T a_(j-1), -T a_(j-2) T^H]] with P = T^H T, where a_j is Hermitian
    for even j and skew-Hermitian for odd j.
    """

    def size(x: Tensor, y: Tensor) -> Tensor:
        return (x.mT * y).sum(dim=(-2, -1)).abs()

    squares = [size(a[j], a[j]) + 2 * size(a[j - 1], b[j - 1]) for j in range(1, 5)]
    squares[1:] = [total + size(b[j], b[j]) for j, total in enumerate(squares[1:])]
    return torch.stack(squares, dim=-1).sqrt().reshape(-1, 4).nan_to_num(0.0, 0.0)


def _extend(a: list[Tensor], b: list[Tensor], sp: Tensor, degree: int) -> None:
    """The sequences on to a_degree and b_(degree - 1)."""
    k = sp.shape[-2]
    while len(a) <= degree:
        both = a[-1] @ sp
        a.append(both[..., :k] - b[-1])
        b.append(both[..., k:])


def _measured(
    norms: Tensor, unit: Tensor, multiplicity: int, k: int, single: bool
) -> tuple[_Plan, float]:
    """The plan for the powers of M / unit, one for a batch, and the unit."""
    if len(norms) > _MOST_BOUNDS:
        largest, f = torch.stack((norms[:, 3].amax(), unit)).tolist()
        norm = f * (largest**2 / multiplicity) ** 0.125
    else:
        *flat, f = torch.cat((norms.flatten(), unit.reshape(1))).tolist()
        rows = [flat[i : i + 4] for i in range(0, len(flat), 4)]
        norm = f * max(_bound(2 * k, multiplicity, row) for row in rows)
    # Doublings multiply the error of the polynomial; the small matrices have digits to spare.
    table = _SINGLE_SMALL if single and norm <= 2 * _SINGLE_SMALL[-1][0] else _DOUBLE
    return _rescaled(_plan(norm, table), f), f


def _exp_there(s: Tensor, p: Tensor, single: bool) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """The one wait for the device: the norm decides the degree and the number of doublings."""
    k, one = s.shape[-1], _identity(s)
    traces = real_diagonal(p).sum(-1)
    size = torch.hypot(torch.linalg.matrix_norm(s), (2 * traces).clamp_min(0).sqrt())
    size = size.nan_to_num(0.0, 0.0).amax().clamp_min(0.5)
    unit = size / torch.frexp(size).mantissa  # a power of two that keeps all powers in range
    sp = torch.cat((s / unit, p / unit.square()), dim=-1)
    a, b = [one, sp[..., :k]], [sp[..., k:]]
    _extend(a, b, sp, 4)
    plan, f = _measured(_norms(a, b), unit, 1 if s.is_complex() else 2, k, single)
    c = plan.coefficients
    _extend(a, b, sp, len(c) - 1)
    w = torch.cat((_sum(c[1:], a[1:]), _sum(c[1:], a)), dim=-2)
    kept: list[Any] = []
    for _ in range(plan.doublings):  # of N - I, which is small where N is near to I
        u, v = w.split(k, dim=-2)
        both = v @ sp
        n = torch.cat(
            (torch.cat((u, v), -2), torch.cat((-both[..., k:], u - both[..., :k]), -2)), -1
        )
        kept += [w, n]
        w = 2 * w + n @ w
    stack = torch.cat(a[: len(c) - 1], dim=-2)
    return one + w[..., :k, :], w[..., k:, :] / f, (c, f, sp, stack, *kept)


def _sum(factors: tuple[float, ...], terms: list[Tensor]) -> Tensor:
    total = factors[0] * terms[0]
    for factor, term in zip(factors[1:], terms[1:], strict=False):
        total = torch.add(total, term, alpha=factor)
    return total


def _exp_back(ge: Tensor, gf: Tensor, kept: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    c, f, sp, stack, *doublings = kept
    k, back = ge.shape[-1], adjoint(sp)
    g, gsp = torch.cat((ge, gf / f), dim=-2), torch.zeros_like(sp)
    for w, n in zip(doublings[-2::-2], doublings[::-2], strict=True):
        gn = g @ adjoint(w)
        right = -torch.cat((gn[..., k:, k:], gn[..., :k, k:]), dim=-1)  # of v S and of v P
        gsp = gsp + adjoint(w[..., k:, :]) @ right
        gu = gn[..., :k, :k] + gn[..., k:, k:]
        g = 2 * g + adjoint(n) @ g + torch.cat((gu, gn[..., k:, :k] + right @ back), dim=-2)
    gu, gv = g.split(k, dim=-2)
    pairs = [torch.cat((c[-1] * gu, torch.zeros_like(gu)), dim=-1)]  # [ga_(j+1), -ga_(j+2)]
    for j in range(len(c) - 2, 0, -1):
        ga = torch.add(c[j] * gu, gv, alpha=c[j + 1]) + pairs[-1] @ back
        pairs.append(torch.cat((ga, -pairs[-1][..., :k]), dim=-1))
    gsp = gsp + adjoint(stack) @ torch.cat(pairs[::-1], dim=-2)
    return gsp[..., :k] / f, gsp[..., k:] / f**2


# n x k --------------------------------------------------------------------------------------------


def _there(core: _Core, x: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
    k = x.shape[-1]
    r = x[..., k:, :]
    single = x.dtype in (torch.float32, torch.complex64)
    e, f, kept = core.there(skew(precise(x[..., :k, :])), double_gram(r), single)
    return double_product(r, f, top=e), (f, *kept)


def _back(
    core: _Core,
    g: Tensor,
    inputs: tuple[Tensor, ...],
    kept: tuple[Any, ...],
    *,
    over: bool = False,
) -> tuple[Tensor]:
    """``over``: the result may take the place of g."""
    k, (x,), (f, *others) = g.shape[-1], inputs, kept
    r, g2 = x[..., k:, :], g[..., k:, :]
    gs, gp = core.back(precise(g[..., :k, :]), precise(adjoint(r) @ g2), tuple(others))
    left, right = adjoint(f).to(x.dtype), (gp + adjoint(gp)).to(x.dtype)
    out = g if over else None
    return (sum_of_products(g2, left, r, right, top=skew_adjoint(gs), out=out),)


def _kernel(core: _Core, formula: Callable[[Tensor], Tensor]) -> Kernel:
    return Kernel(partial(_there, core), partial(_back, core), by_formula(formula))


# in operations that autograd sees -----------------------------------------------------------------


def _parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    k = x.shape[-1]
    r = precise(x[..., k:, :])
    return skew(precise(x[..., :k, :])), r, r.mH @ r


def _exp_formula(x: Tensor) -> Tensor:
    s, r, p = _parts(x)
    k = x.shape[-1]
    # Balanced: [0; R/c] instead of [0; R] makes the blocks I and P equally large.
    c = r.detach().abs().square().sum(dim=(-2, -1), keepdim=True).sqrt().clamp_min(1.0)
    bottom = torch.cat((c * _identity(s), torch.zeros_like(s)), dim=-1)
    e = expm(torch.cat((torch.cat((s, -p / c), dim=-1), bottom), dim=-2))
    return torch.cat((e[..., :k, :k], r @ (e[..., k:, :k] / c)), dim=-2).to(x.dtype)


def _cayley_formula(x: Tensor) -> Tensor:
    s, r, p = _parts(x)
    h = torch.linalg.inv_ex(_identity(s) - 0.5 * s + 0.25 * p)[0]
    return torch.cat((2 * h - _identity(s), r @ h), dim=-2).to(x.dtype)


EXP = _kernel(_Core(_exp_there, _exp_back), _exp_formula)
CAYLEY = _kernel(_Core(_cayley_there, _cayley_back), _cayley_formula)
_exp_operator = operator("exponential_tall", EXP)


def exponential_tall(x: Tensor) -> Tensor:
    """exp(A) I_{n x k}, A = [[S, -R^H], [R, 0]], S = skew(top of x), R = rest of x.

    Args:
        x: (..., n, k), n > k.

    Returns:
        (..., n, k), I_{n x k} at x = 0, with derivatives of every order.
    """
    if x.numel() == 0:
        return x.clone()
    return _exp_operator(x) if is_traced(x) else EXP(x)


def cayley_tall(x: Tensor) -> Tensor:
    """(I - A/2)^-1 (I + A/2) I_{n x k}, A as in :func:`exponential_tall`.

    Args:
        x: (..., n, k), n > k.

    Returns:
        (..., n, k), I_{n x k} at x = 0, with derivatives of every order.
    """
    return _cayley_formula(x) if is_traced(x) or x.numel() == 0 else CAYLEY(x)
