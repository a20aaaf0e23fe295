"""The principal logarithm of a matrix, for right inverses: no derivative."""

import torch
from torch import Tensor

from ..errors import ConstraintViolation
from .elementary import precise
from .exponential import expm

__all__ = ["logarithm"]

_NEAR = 0.3  # |Y - I| from which the quadrature below has all digits
_NODES = 8
_MOST_ROOTS = 60
_MOST_STEPS = 60


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


def _by_roots(y: Tensor) -> Tensor:
    """Square roots until Y is near I, the logarithm there, doubled back (Kenney and Laub 1989).

    The roots lose digits of Y - I: two steps of Newton, L + exp(-L) Y - I, where they help.
    """
    one = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    root, count = y, 0
    while count < _MOST_ROOTS and float(torch.linalg.matrix_norm(root - one).amax()) > _NEAR:
        root, count = _square_root(root), count + 1
    found = 2.0**count * _near_identity(root - one)
    off = torch.linalg.matrix_norm(expm(found) - y)
    for _ in range(2 if count else 0):
        after = found + expm(-found) @ y - one
        nearer = torch.linalg.matrix_norm(expm(after) - y)
        found = torch.where((nearer < off)[..., None, None], after, found)
        off = torch.minimum(off, nearer)
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
            found = torch.where(symmetric, found, _by_roots(wide))
        size = torch.linalg.matrix_norm(wide)
        off = float((torch.linalg.matrix_norm(expm(found) - wide) / size).amax())
        if not off < 1e-6:
            raise ConstraintViolation(
                f"the exponential of the logarithm is {off:.3g} of the matrix away from it: "
                "expected a better conditioned matrix. Start from another one."
            )
        return found
