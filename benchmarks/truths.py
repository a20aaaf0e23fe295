"""Values and gradients of maps in double precision, by routes that share no code with the package.

An oracle takes x (n, k) and gives y with a function from the gradient of y to that of x, or None
where the map is used for its value only. Beside it stands the same map in the arithmetic of mpmath,
for small x, whose gradient is taken by differences in 60 digits: that says how far an oracle itself
is off.
"""

import math
from collections.abc import Callable
from typing import Any

import mpmath
import scipy.linalg
import torch
from torch import Tensor

__all__ = ["Exact", "Oracle", "by_differences", "value_exactly"]

Pull = Callable[[Tensor], Tensor]
Oracle = Callable[[Tensor], tuple[Tensor, Pull | None]]
Exact = Callable[[Any], Any]


# skew-Hermitian matrices: eigenvalues i p ---------------------------------------------------------


def dense(x: Tensor) -> Tensor:
    """A = [[S, -R^H], [R, 0]], n x n: S of the lower triangle of x's top, R the rest of x."""
    n, k = x.shape
    left = torch.nn.functional.pad(x.tril(-1), (0, n - k))
    a = left - left.mH
    if x.is_complex():
        a.diagonal()[:k] = 1j * x.diagonal().imag
    return a


def _by_eigenvalues(x: Tensor, values: Pull, slopes: Pull) -> tuple[Tensor, Pull]:
    """``slopes`` are the divided differences of ``values``, written without differences."""
    k = x.shape[1]
    p, v = torch.linalg.eigh(dense(x).to(torch.complex128) / 1j)
    y = (v * values(p)) @ v.mH[:, :k]
    weights = slopes(p).conj()

    def pull(g: Tensor) -> Tensor:
        inner = v.mH @ (g.to(v.dtype) @ v[:k])
        pulled = v @ ((weights * inner) @ v.mH)
        both = (pulled - pulled.mH)[:, :k]
        found = both.tril(-1)
        if not x.is_complex():
            return found.real
        return found + 0.5 * (both.tril() - both.tril(-1))

    return (y if x.is_complex() else y.real), pull


def exp_skew(x: Tensor) -> tuple[Tensor, Pull]:
    def slopes(p: Tensor) -> Tensor:
        half, mean = (p[:, None] - p) / 2, (p[:, None] + p) / 2
        return torch.exp(1j * mean) * torch.sinc(half / math.pi)

    return _by_eigenvalues(x, lambda p: torch.exp(1j * p), slopes)


def cayley(x: Tensor) -> tuple[Tensor, Pull]:
    def slopes(p: Tensor) -> Tensor:
        return (1 / (1 - 0.5j * p))[:, None] / (1 - 0.5j * p)

    return _by_eigenvalues(x, lambda p: (1 + 0.5j * p) / (1 - 0.5j * p), slopes)


# other maps ---------------------------------------------------------------------------------------


def exp_hermitian(x: Tensor) -> tuple[Tensor, Pull]:
    """Of (x + x^H)/2, with exp(m) sinh(h)/h for the divided differences."""
    p, v = torch.linalg.eigh(0.5 * (x + x.mH))
    half, mean = (p[:, None] - p) / 2, (p[:, None] + p) / 2
    ratio = torch.where(half == 0, 1.0, torch.sinh(half) / torch.where(half == 0, 1.0, half))
    slopes = torch.exp(mean) * ratio

    def pull(g: Tensor) -> Tensor:
        return v @ (slopes * (v.mH @ (0.5 * (g + g.mH)) @ v)) @ v.mH

    return (v * torch.exp(p)) @ v.mH, pull


def exp_general(x: Tensor) -> tuple[Tensor, Pull]:
    """SciPy's Pade approximants; the adjoint of the derivative at A is the derivative at A^H."""
    turned = x.mH.numpy().copy()

    def pull(g: Tensor) -> Tensor:
        found = scipy.linalg.expm_frechet(turned, g.numpy(), compute_expm=False)
        return torch.from_numpy(found)

    return torch.from_numpy(scipy.linalg.expm(x.numpy())), pull


def polar(x: Tensor) -> tuple[Tensor, Pull]:
    """U V^H of the SVD, and sums over singular values, which may repeat."""
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    y = u @ vh

    def pull(g: Tensor) -> Tensor:
        c = y.mH @ g
        z = vh.mH @ ((vh @ (c - c.mH) @ vh.mH) / (s[:, None] + s)) @ vh
        rest = ((g - u @ (u.mH @ g)) @ vh.mH / s) @ vh
        return y @ z + (rest if x.shape[0] > x.shape[1] else 0.0)

    return y, pull


def reflectors(x: Tensor) -> tuple[Tensor, Pull]:
    """-H_1 ... H_k I_{n x k}, one reflector after the other, as torch differentiates it."""
    leaf = x.clone().requires_grad_()
    y = one_by_one(leaf)
    return y.detach(), lambda g: torch.autograd.grad(y, leaf, g, retain_graph=True)[0]


def one_by_one(x: Tensor) -> Tensor:
    n, k = x.shape
    y = -torch.eye(n, k, dtype=x.dtype)
    for j in reversed(range(k)):
        v = torch.cat((torch.zeros_like(x[:j, j]), torch.ones_like(x[:1, j]), x[j + 1 :, j]))
        length = (v.conj() * v).sum()
        length = length + 1j * x[j, j].imag if x.is_complex() else length
        y = y - torch.outer(v, 2 / length * (v.conj() @ y))
    return y


def ball(x: Tensor) -> tuple[Tensor, Pull]:
    """x L^-H, L L^H = I + x^H x: the top of Q for [x; I] = Q L^H, as torch differentiates QR."""
    leaf = x.clone().requires_grad_()
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    q, r = torch.linalg.qr(torch.cat((leaf, identity)))
    y = q[: x.shape[0]] * r.detach().diagonal().sgn()
    return y.detach(), lambda g: torch.autograd.grad(y, leaf, g, retain_graph=True)[0]


def definite(x: Tensor) -> tuple[Tensor, Pull]:
    """L L^H, L = tril(x, -1) + diag(log(1 + exp(diag x)))."""
    d = x.diagonal()
    l = x.tril(-1) + torch.diag(torch.logaddexp(d, torch.zeros_like(d)))

    def pull(g: Tensor) -> Tensor:
        gl = (g + g.mH) @ l
        return gl.tril(-1) + torch.diag(gl.diagonal() * torch.sigmoid(d))

    return l @ l.mH, pull


def scaled(x: Tensor) -> tuple[Tensor, Pull]:
    """diag(u) exp(x) diag(v), sums 1: plain iterations, then Newton on all 2n equations at once."""
    p = torch.exp(x - x.max())
    for _ in range(100_000):
        p = p / p.sum(1, keepdim=True)
        p = p / p.sum(0)
        if float((p.sum(1) - 1).abs().max()) < 1e-3:
            break
    for _ in range(8):
        off = torch.cat((1 - p.sum(1), 1 - p.sum(0)))
        u, v = _potentials(p, off)
        p = torch.exp(u)[:, None] * p * torch.exp(v)
    assert float(off.abs().max()) < 1e-12

    def pull(g: Tensor) -> Tensor:
        h = p * g
        u, v = _potentials(p, torch.cat((h.sum(1), h.sum(0))))
        return h - p * (u[:, None] + v)

    return p, pull


def _potentials(p: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """u, v with u_i + sum_j p_ij v_j and v_j + sum_i p_ij u_i as given; singular by a constant."""
    n = len(p)
    both = torch.cat((torch.diag(p.sum(1)), p), 1), torch.cat((p.mT, torch.diag(p.sum(0))), 1)
    fixed = torch.cat((torch.ones(n), -torch.ones(n))).to(p.dtype)
    found = torch.linalg.solve(torch.cat(both) + torch.outer(fixed, fixed) / n, right)
    return found[:n], found[n:]


# in 60 digits -------------------------------------------------------------------------------------


def by_differences(exactly: Exact, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of a real map; what is small here is small in all 60 digits."""
    with mpmath.workdps(60):
        at, step = mpmath.matrix(x.tolist()), mpmath.mpf(10) ** -20
        slope = torch.zeros_like(x)
        weights = mpmath.matrix(g.tolist())
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                up, down = at.copy(), at.copy()
                up[i, j] += step
                down[i, j] -= step
                change = (exactly(up) - exactly(down)) / (2 * step)
                slope[i, j] = float(sum(a * b for a, b in zip(change, weights, strict=True)))
    return value_exactly(exactly, x), slope


def value_exactly(exactly: Exact, x: Tensor) -> Tensor:
    """Of a map that may be complex."""
    with mpmath.workdps(60):
        value = [[complex(t) for t in row] for row in exactly(mpmath.matrix(x.tolist())).tolist()]
    found = torch.tensor(value, dtype=torch.complex128)
    return found if x.is_complex() else found.real


def dense_exactly(x: Any) -> Any:
    a = mpmath.zeros(x.rows)
    for i in range(x.rows):
        for j in range(min(i, x.cols)):
            a[i, j], a[j, i] = x[i, j], -x[i, j]
    return a


def exp_skew_exactly(x: Any) -> Any:
    return mpmath.expm(dense_exactly(x))[:, : x.cols]


def cayley_exactly(x: Any) -> Any:
    a, one = dense_exactly(x) / 2, mpmath.eye(x.rows)
    return (mpmath.inverse(one - a) * (one + a))[:, : x.cols]


def exp_hermitian_exactly(x: Any) -> Any:
    return mpmath.expm((x + x.T) / 2)


def polar_exactly(x: Any) -> Any:
    e, q = mpmath.eigsy(x.T * x)
    return x * q * mpmath.diag([1 / mpmath.sqrt(t) for t in e]) * q.T


def reflectors_exactly(x: Any) -> Any:
    y = -mpmath.eye(x.rows)[:, : x.cols]
    for j in reversed(range(x.cols)):
        v = mpmath.matrix([0] * j + [1] + [x[i, j] for i in range(j + 1, x.rows)])
        y = y - 2 * v * (v.T * y) / (v.T * v)[0]
    return y


def ball_exactly(x: Any) -> Any:
    l = mpmath.cholesky(mpmath.eye(x.cols) + x.T * x)
    return x * mpmath.inverse(l).T


def definite_exactly(x: Any) -> Any:
    l = x.copy()
    for i in range(x.rows):
        l[i, i] = mpmath.log(1 + mpmath.exp(x[i, i]))
        for j in range(i + 1, x.cols):
            l[i, j] = 0
    return l * l.T


def scaled_exactly(x: Any) -> Any:
    p, n = x.apply(mpmath.exp), x.rows
    off = mpmath.mpf(1)
    while off > mpmath.mpf(10) ** -50:
        p = mpmath.diag([1 / sum(p[i, :]) for i in range(n)]) * p
        p = p * mpmath.diag([1 / sum(p[:, j]) for j in range(n)])
        off = max(abs(sum(p[i, :]) - 1) for i in range(n))
    return p
