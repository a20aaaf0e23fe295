"""Orthonormal columns as a product of reflectors, in compact form, and back to the reflectors.

With v_j = e_j + (the entries of x below the diagonal in column j) the matrix

    H_j = I - tau_j v_j v_j^H,    1 / tau_j = (|v_j|^2 + i t_j) / 2,    t_j = Im x_jj,

is unitary: Householder's reflector where x is real, and LAPACK's form of one, which also turns the
phase of a column, where x is complex. As |v_j| >= 1, tau is smooth and no H_j is the identity.
V = [v_1 ... v_k] multiplies them up (Schreiber and Van Loan 1989; with the inverse of T, Joffrain,
Low, Quintana-Orti, van de Geijn and Van Zee 2006):

    H_1 ... H_k = I - V T V^H,    T^-1 = N = striu(V^H V) + diag(V^H V + i t) / 2,

and y = -H_1 ... H_k I_{n x k} D = V W - I_{n x k} D with W = T V_1^H D, V_1 the top of V and D a
constant diagonal of signs or phases: y = I_{n x k} D at x = 0. Its first column is the projection
of v_1 onto a sphere (stereographic; complex: the Cayley transform of the Heisenberg group), its
second one that of v_2 onto a sphere in the complement of the first, and so on: one-to-one, with a
determinant in closed form.

The way back, g the gradient of y. From dT = -T dN T

    dy = dV W + V T (dV_1^H D - dN W),   dN = striu(dG) + diag(dG + i dt) / 2,   dG = d(V^H V),

so that with Q = T^H V^H g D^-1 the gradient of V_1^H is Q and that of N is gN = -Q D W^H, of which
the upper triangle counts. It comes to V as V M, M the Hermitian matrix that has gN above the
diagonal and Re gN on it, and to t as Im gN / 2:

    gV = g W^H + V M, Q^H added to its top.

Two products with n rows there and three back.
"""

import math
from functools import partial

import torch
from torch import Tensor

from .elementary import precise
from .kernel import Kernel, adjoint, by_formula, is_traced
from .operation import operator
from .orthogonal import polished
from .tall import double_gram, sum_of_products
from .triangular import lower_product, solved_lower, solved_upper, upper_of_product

__all__ = ["householder_from", "householder_inverse", "log_det_householder"]

# Entries of a matrix that goes through double precision as a whole. Its gradient is a few numbers,
# in which what single precision has rounded need not cancel; of many it is a small part.
_SMALL = 256
_PANEL = 32  # columns that are eliminated one by one before a product takes them off the others


def _readable(x: Tensor) -> Tensor:
    return precise(x) if x.shape[-2] * x.shape[-1] <= _SMALL else x


def _parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """The top k rows, and the rest, of which there may be none."""
    n, k = x.shape[-2:]
    return x.narrow(-2, 0, k), x.narrow(-2, k, n - k)


def _diagonal(m: Tensor) -> Tensor:
    return torch.diagonal(m, dim1=-2, dim2=-1)


def _unit(top: Tensor) -> Tensor:
    """V_1: what is below the diagonal, and ones on it."""
    v = top.tril(-1)
    _diagonal(v).fill_(1)
    return v


def _inverse_of_t(gram: Tensor, top: Tensor) -> Tensor:
    """N, from V^H V and the diagonal of x."""
    n = gram.triu()
    _diagonal(n).mul_(0.5)
    if top.is_complex():
        own = _diagonal(top)
        _diagonal(n).add_(0.25 * (own - own.conj_physical()))
    return n


def _there(phases: Tensor, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What is k x k in double precision, as N + N^H = V^H V is what makes y orthonormal."""
    top, r = _parts(_readable(x))
    v = _unit(precise(top))
    n = _inverse_of_t(upper_of_product(adjoint(v), v).add_(double_gram(r)), precise(top))
    w = solved_upper(n, adjoint(v) * phases)
    z = lower_product(v, w)
    _diagonal(z).sub_(phases.squeeze(-2))
    n, w = n.to(r.dtype), w.to(r.dtype)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    for part, value in zip(_parts(y), (z, r @ w), strict=True):
        part.copy_(value)
    return y, (n, w)


def _back(g: Tensor, inputs: tuple[Tensor, ...], kept: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Of gW, Q and gN the upper triangle is all that counts, as W^H is lower and V_1 unit lower."""
    (phases, x), (n, w), dtype = inputs, kept, g.dtype
    (top, r), (g1, g2) = _parts(_readable(x)), _parts(_readable(g))
    d, v = phases.to(n.dtype), _unit(top)
    q = upper_of_product(adjoint(v), g1).add_(adjoint(r) @ g2).mul_(d.conj_physical())
    q = solved_lower(n, q)
    m = upper_of_product(q * d, adjoint(w)).triu_().neg_()
    _diagonal(m).mul_(0.5)
    turn = _diagonal(m) - _diagonal(m).conj_physical()
    m = m + adjoint(m)
    others = upper_of_product(w, adjoint(g1)).add_(q)
    top = lower_product(v, m).add_(adjoint(others)).tril_(-1)
    if x.is_complex():
        _diagonal(top).copy_(0.5 * turn)
    if r.shape[-2] > 0:
        top = sum_of_products(g2, adjoint(w), r, m, top=top)
    return torch.zeros_like(phases), top.to(dtype)


def _formula(phases: Tensor, x: Tensor) -> Tensor:
    top, r = _parts(precise(x))
    v = _unit(top)
    n = _inverse_of_t(adjoint(v) @ v + adjoint(r) @ r, top)
    w = torch.linalg.solve_triangular(n, adjoint(v) * phases, upper=True)
    z = v @ w - torch.diag_embed(phases.squeeze(-2))
    return torch.cat((z, r @ w), dim=-2).to(x.dtype)


def _again(g: Tensor, phases: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    (pulled,) = by_formula(partial(_formula, phases))(g, x)
    return torch.zeros_like(phases), pulled


_HOUSEHOLDER = Kernel(_there, _back, _again)
_operator = operator("householder", _HOUSEHOLDER, inputs=2, waits=False)


def _phase(z: Tensor) -> Tensor:
    """z / |z|, 1 for 0."""
    return torch.where(z == 0, torch.ones_like(z), z.sgn())


def _phases(base: Tensor | None, x: Tensor) -> Tensor:
    """The diagonal of D as a row, for each x: in double precision, as D D^H = I is made use of."""
    top = _parts(x if base is None else base.detach())[0]
    ones = torch.eye(x.shape[-1], dtype=top.dtype, device=x.device)
    # torch.diagonal would do, and compilers warn of it.
    row = _phase(precise((ones if base is None else ones * top).sum(dim=-2, keepdim=True)))
    return row.expand(*x.shape[:-2], 1, x.shape[-1])


def householder_from(base: Tensor | None, x: Tensor) -> Tensor:
    """-H_1 ... H_k I_{n x k} D, D the phases of the diagonal of ``base``; orthonormal to rounding.

    No wait for the device: nothing here depends on values.

    Args:
        base: (..., n, k), I_{n x k} D; of any other one only the phases of the diagonal are read.
            None: D = I.
        x: (..., n, k) with n >= k, real or complex, in single or double precision. Not read are
            entries above the diagonal, and the (complex: real part of the) diagonal.

    Returns:
        (..., n, k), I_{n x k} D at x = 0, with derivatives of every order.
    """
    if x.numel() == 0:
        return x.clone()
    phases = _phases(base, x)
    y = _operator(phases, x) if is_traced(x) else _HOUSEHOLDER(phases, x)
    return y if y.dtype in (torch.float32, torch.complex64) else polished(y)


def log_det_householder(x: Tensor) -> Tensor:
    """log of the volume that :func:`householder_from` makes of a volume of x, in uniform measure.

    Column j of y is a point of the sphere in the complement of those before it, which v_j alone
    moves on it: the determinant is the product of theirs. With m = n - j numbers below the diagonal
    the stereographic projection has (2 / |v_j|^2)^m, and the Cayley transform of the Heisenberg
    group 2^(2m + 1) / (|v_j|^4 + t_j^2)^(m + 1) (Frank and Lieb, arXiv 1009.1410).

    Args:
        x: (..., n, k) with n >= k.

    Returns:
        (...): volume of the entries of Q^H dy below the diagonal, of complex matrices also on it.
    """
    n, k = x.shape[-2:]
    below = x.tril(-1)
    squares = below.real.square() + below.imag.square() if x.is_complex() else below.square()
    lengths = 1 + squares.sum(dim=-2)
    m = torch.arange(n - 1, n - 1 - k, -1, dtype=lengths.dtype, device=x.device)
    if not x.is_complex():
        return (m * (2 / lengths).log()).sum(-1)
    t = torch.diagonal(x, dim1=-2, dim2=-1).imag
    return ((m + 1) * (4 / (lengths.square() + t.square())).log() - math.log(2)).sum(-1)


def householder_inverse(y: Tensor) -> tuple[Tensor, Tensor]:
    """(x, base) with householder_from(base, x) = y, in the dtype of y (no derivative).

    y + I_{n x k} D = V W is an elimination without pivoting: V is below the diagonal, W above. D is
    chosen on the way as the phase of each pivot, which makes it 1 to 2 in size (Ballard, Demmel,
    Grigori, Jacquelin, Nguyen, Solomonik, Reconstructing Householder vectors, 2014). Then v_j is
    a + phase(a_1) |a| e_1 over its first entry, as in a stable QR factorisation: all t are 0, and
    the entries of x below the diagonal of a column have together at most the length 1.

    Args:
        y: (..., n, k) with n >= k, orthonormal columns.
    """
    with torch.no_grad():
        a = precise(y).clone()
        base, k = torch.zeros_like(y), y.shape[-1]
        for start in range(0, k, _PANEL):
            end = min(start + _PANEL, k)
            for j in range(start, end):
                phase = _phase(a[..., j, j])
                base[..., j, j] = phase
                a[..., j, j] += phase
                a[..., j + 1 :, j] /= a[..., j, j, None]
                row = a[..., j, None, j + 1 : end]
                a[..., j + 1 :, j + 1 : end] -= a[..., j + 1 :, j, None] * row
            rows = torch.linalg.solve_triangular(
                _unit(a[..., start:end, start:end]), a[..., start:end, end:], upper=False
            )
            a[..., end:, end:] -= a[..., end:, start:end] @ rows
        return a.tril(-1).to(y.dtype), base
