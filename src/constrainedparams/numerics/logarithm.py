"""The principal logarithm of a matrix, for right inverses: no derivative."""

import math

import torch
from torch import Tensor

from ..errors import ConstraintViolation
from .compensated import exponential, total
from .elementary import precise
from .exponential import expm

__all__ = ["logarithm"]

_NEAR = 0.3  # |Y - I| from which the quadrature below has all digits
_NODES = 8
_MOST_ROOTS = 60
_MOST_STEPS = 60
_DIGITS = 14.0
_LAST = 1e-10  # a step of that share of L leaves, by these digits, nothing above its rounding
_MOST_NODES = 256
_MOST_CORRECTIONS = 4


def _quadrature(x: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss and Legendre on (0, 1), by eigenvalues (Golub and Welsch 1969)."""
    k = torch.arange(1, _NODES, dtype=torch.float64, device="cpu")
    off = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (0.5 * (nodes + 1)).to(x.device), vectors[0].square().to(x.device)


def _near_identity(x: Tensor) -> Tensor:
    """log(I + X) = integral of X (I + t X)^-1 over t from 0 to 1."""
    one = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    total = torch.zeros_like(x)
    for node, weight in zip(*_quadrature(x), strict=True):
        total = total + weight * torch.linalg.solve_ex(one + node * x, x)[0]
    return total


def _square_root(y: Tensor) -> Tensor:
    """The principal square root, by the product form of Denman and Beavers' iteration.

    Newton's method on the sign of [[0, Y], [I, 0]] with M_k = X_k Y_k kept in place of Y_k, scaled
    by the determinant (Cheng, Higham, Kenney and Laub, SIAM J. Matrix Anal. Appl. 22, 2001).
    """
    n = y.shape[-1]
    one = torch.eye(n, dtype=y.dtype, device=y.device)
    m, x, before = y, y, torch.inf
    for _ in range(_MOST_STEPS):
        inverse = torch.linalg.inv_ex(m)[0]
        scale = torch.exp(-torch.linalg.slogdet(m)[1] / (2 * n))[..., None, None]
        far = (torch.linalg.matrix_norm(m - one) > 1e-2)[..., None, None]
        scale = torch.where(far, scale, 1.0)
        x = 0.5 * scale * (x + x @ inverse / scale**2)
        m = 0.5 * (one + 0.5 * (scale**2 * m + inverse / scale**2))
        off = float(torch.linalg.matrix_norm(m - one).amax())
        if off < 1e-14 * n or (off < 1e-8 and off >= before):
            break
        before = off
    return x


def _without_logarithm(y: Tensor) -> Tensor:
    """Where an eigenvalue is 0, or real and negative, to rounding."""
    values = torch.linalg.eigvals(y)
    size = values.abs().amax(-1, keepdim=True)
    slack = 8 * y.shape[-1] * torch.finfo(size.dtype).eps * size
    return ((values.imag.abs() <= slack) & (values.real <= slack)).any(-1)


def _root_slope(x: Tensor, e: Tensor) -> Tensor:
    """The derivative of the root X along E: the D with X D + D X = E, by doubling (Smith 1968).

    With N = (X + g)^-1, C = N (X - g), g > 0, it is D - C D C = 2 g N E N, and D the sum of
    C^k (2 g N E N) C^k: C has its eigenvalues in the disc, as X has them in the right half plane.
    """
    one = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    sizes = [torch.linalg.matrix_norm(t, keepdim=True) for t in (x, torch.linalg.inv_ex(x)[0])]
    g = (sizes[0] / sizes[1]).sqrt()
    n = torch.linalg.inv_ex(x + g * one)[0]
    c, d = n @ (x - g * one), 2 * g * (n @ e @ n)
    for _ in range(_MOST_STEPS):
        d, c = d + c @ d @ c, c @ c
        if not float(torch.linalg.matrix_norm(c).amax()) > 1e-16:
            break
    return d


def _slope(root: Tensor, e: Tensor) -> Tensor:
    """The derivative of the logarithm at Y = X^2 along E, for the principal root X.

    Twice that at X along the D with X D + D X = E, the integral of (s + X)^-1 D (s + X)^-1 over
    s > 0. By the trapezoidal rule in log s: the poles, at -l for the eigenvalues l of X, are at
    least w = pi / 2 away from the real line there, so that with a spacing of h it is off by about
    exp(-2 pi w / h) (Trefethen and Weideman, SIAM Rev. 56, 2014).
    """
    d = _root_slope(root, e)
    one = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    ends = [torch.linalg.matrix_norm(t).log() for t in (torch.linalg.inv_ex(root)[0], root)]
    low, high = -float(ends[0].amax()) - _DIGITS, float(ends[1].amax()) + _DIGITS
    count = math.ceil((high - low) * _DIGITS / math.pi**2)
    total, step = torch.zeros_like(root), (high - low) / count
    for k in range(count + 1):
        s = math.exp(low + k * step)
        inverse = torch.linalg.inv_ex(s * one + root)[0]
        total = total + s * (inverse @ d @ inverse)
    return 2 * step * total


def _rest(y: Tensor, l: Tensor) -> Tensor:
    """Y - exp(L)."""
    high, low = exponential(l)
    return total(y, -high, -low)[0]


def _by_roots(y: Tensor) -> Tensor:
    """Square roots until Y is near I, the logarithm there, doubled back (Kenney and Laub 1989).

    The roots lose digits of Y - I: steps of Newton for exp(L) = Y, where they help. With Y - exp(L)
    in twice the digits the condition of the logarithm takes none of those of L.
    """
    one = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    roots = [y]
    while (
        len(roots) <= _MOST_ROOTS
        and float(torch.linalg.matrix_norm(roots[-1] - one).amax()) > _NEAR
    ):
        roots.append(_square_root(roots[-1]))
    found = 2.0 ** (len(roots) - 1) * _near_identity(roots[-1] - one)
    rest = _rest(y, found)
    for _ in range(_MOST_CORRECTIONS if len(roots) > 1 else 0):
        step = _slope(roots[1], rest)
        after = found + step
        small = torch.linalg.matrix_norm(step) <= _LAST * torch.linalg.matrix_norm(found)
        if bool(small.all()):
            return after
        left = _rest(y, after)
        off, nearer = (torch.linalg.matrix_norm(t, keepdim=True) for t in (rest, left))
        found, rest = (
            torch.where(nearer < off, new, old) for new, old in ((after, found), (left, rest))
        )
        if not bool((nearer < 0.1 * off).any()):
            break
    return found


def _by_eigenvalues(y: Tensor) -> Tensor:
    """The logarithm of a Hermitian matrix, whatever its condition."""
    e, u = torch.linalg.eigh(0.5 * (y + y.mH))
    return (u * e.clamp_min(torch.finfo(e.dtype).tiny).log().unsqueeze(-2)) @ u.mH


def logarithm(y: Tensor) -> Tensor:
    """The L with exp(L) = Y whose eigenvalues have imaginary parts between -pi and pi.

    Args:
        y: (..., n, n), real or complex.

    Returns:
        (..., n, n) in double precision, real for real Y.

    Raises:
        ConstraintViolation: Y has an eigenvalue that is 0, or real and negative, or none of which
            exp(L) is Y again.
    """
    if y.numel() == 0:
        return precise(y)
    with torch.no_grad():
        wide = precise(y)
        if bool((none := _without_logarithm(wide)).any()):
            raise ConstraintViolation(
                f"{int(none.sum())} of {none.numel()} matrices have an eigenvalue that is 0, or "
                "real and negative: expected matrices with a principal logarithm. Start from "
                "another matrix, such as one with positive eigenvalues."
            )
        symmetric = (wide == wide.mH).all(-1).all(-1)[..., None, None]
        found = _by_eigenvalues(wide)
        if not bool(symmetric.all()):
            one = torch.eye(y.shape[-1], dtype=wide.dtype, device=y.device)
            found = torch.where(symmetric, found, _by_roots(torch.where(symmetric, one, wide)))
        size = torch.linalg.matrix_norm(wide)
        off = float((torch.linalg.matrix_norm(expm(found) - wide) / size).amax())
        if not off < 1e-6:
            raise ConstraintViolation(
                f"the exponential of the logarithm is {off:.3g} of the matrix away from it: "
                "expected a better conditioned matrix. Start from another one."
            )
        return found
