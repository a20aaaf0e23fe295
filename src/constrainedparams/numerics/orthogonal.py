"""Maps onto matrices with orthonormal columns; for n x k with k < n nothing here is n x n."""

import torch
from torch import Tensor

from .elementary import precise, with_value
from .exponential import expm
from .skew_exponential import expm_skew

__all__ = [
    "cayley",
    "defect",
    "exponential",
    "first_columns",
    "haar",
    "moved",
    "newton_schulz",
    "polar",
    "positive_qr",
    "rotation",
    "transport",
]


def first_columns(y: Tensor) -> Tensor:
    """I_{n x k}: the first k columns of the identity, in the shape of ``y`` (..., n, k)."""
    n, k = y.shape[-2:]
    return torch.eye(n, k, dtype=y.dtype, device=y.device).expand(y.shape)


def _skew(x: Tensor) -> Tensor:
    """Skew-Hermitian matrix of the lower triangle of ``x`` (..., n, n).

    The diagonal of a real x is not read; of a complex one its imaginary part is.
    """
    strict = x.tril(-1)
    s = strict - strict.mH
    if x.is_complex():
        diagonal = x * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        s = s + 0.5 * (diagonal - diagonal.mH)
    return s


def exponential(x: Tensor) -> Tensor:
    """exp(A) I_{n x k} with A = [[S, -R^H], [R, 0]], S = skew(top of x), R = rest of x.

    For k < n, exp(A) I_{n x k} = [E11; R E21] with E = exp([[S, -R^H R], [I, 0]]) of size 2k: the
    columns [I; 0] and [0; R] span an invariant subspace of A, and this is A in that basis.

    Args:
        x: (..., n, k) with n >= k.

    Returns:
        (..., n, k), I_{n x k} at x = 0.
    """
    n, k = x.shape[-2:]
    if n == k:
        return expm_skew(_skew(x))
    # R^H R loses half of the digits of R, so this small part runs in double precision.
    s, r = _skew(precise(x[..., :k, :])), precise(x[..., k:, :])
    # Balanced: [0; R/c] instead of [0; R] makes the blocks I and R^H R equally large.
    c = r.detach().abs().square().sum(dim=(-2, -1), keepdim=True).sqrt().clamp_min(1.0)
    identity = torch.eye(k, dtype=r.dtype, device=r.device).expand(s.shape)
    top = torch.cat((s, -(r.mH @ r) / c), dim=-1)
    bottom = torch.cat((c * identity, torch.zeros_like(s)), dim=-1)
    e = expm(torch.cat((top, bottom), dim=-2))
    z = torch.cat((e[..., :k, :k], r @ (e[..., k:, :k] / c)), dim=-2)
    return z.to(x.dtype)


def cayley(x: Tensor) -> Tensor:
    """(I - A/2)^-1 (I + A/2) I_{n x k} with A = [[S, -R^H], [R, 0]] as in :func:`exponential`.

    For k < n it is [2H - I; R H] with H = (I - S/2 + R^H R/4)^-1 of size k (Schur complement).

    Args:
        x: (..., n, k) with n >= k.

    Returns:
        (..., n, k), I_{n x k} at x = 0; real results have no eigenvalue -1 when n = k.
    """
    n, k = x.shape[-2:]
    identity = torch.eye(k, dtype=x.dtype, device=x.device)
    if n == k:
        half = 0.5 * _skew(x)
        return torch.linalg.solve(identity - half, identity + half)
    s, r = _skew(precise(x[..., :k, :])), precise(x[..., k:, :])
    identity = identity.to(r.dtype).expand(s.shape)
    h = torch.linalg.solve(identity - 0.5 * s + 0.25 * (r.mH @ r), identity)
    return torch.cat((2 * h - identity, r @ h), dim=-2).to(x.dtype)


def transport(base: Tensor, z: Tensor) -> Tensor:
    """Q z D with Q n x n unitary and D diagonal, such that Q I_{n x k} D = base.

    Q is the product of the k reflectors of base's QR factorisation, applied as I - V T V^H
    (compact form; T = (I + diag(tau) striu(V^H V))^-1 diag(tau)), and D the diagonal of its R.
    For n = k it is base @ z.

    Args:
        base: (..., n, k), orthonormal columns, a constant.
        z: (..., n, k).
    """
    n, k = base.shape[-2:]
    if n == k:
        return base @ z
    packed, tau = torch.geqrf(base)
    v = packed.tril(-1) + first_columns(packed)
    phase = torch.diagonal(packed, dim1=-2, dim2=-1).sgn()
    identity = torch.eye(k, dtype=v.dtype, device=v.device)
    mixing = identity + tau.unsqueeze(-1) * (v.mH @ v).triu(1)
    t = torch.linalg.solve_triangular(mixing, torch.diag_embed(tau), upper=True)
    return (z - v @ (t @ (v.mH @ z))) * phase.unsqueeze(-2)


def moved(z: Tensor, base: Tensor | None) -> Tensor:
    """``z`` transported to ``base`` (None: left where it is), orthonormal to rounding.

    Squaring and solving lose digits of z with |x|; two steps of :func:`newton_schulz` give them
    back. They correct rounding and are no part of the derivative.
    """
    y = z if base is None else transport(base, z)
    return with_value(y, newton_schulz(y.detach(), 2))


def newton_schulz(y: Tensor, steps: int = 1) -> Tensor:
    """Nearer to the polar factor of ``y``: y + y (I - y^H y) / 2, quadratic for a small defect.

    Many small squares are lost when they are added to a 1 in single precision, and the step would
    put them into y (1e-5 at n = 128): the diagonal of y^H y is summed in double precision.
    """
    on_diagonal = torch.eye(y.shape[-1], dtype=torch.bool, device=y.device)
    for _ in range(steps):
        lengths = precise(y).abs().square().sum(dim=-2, keepdim=True)
        missing = torch.where(on_diagonal, (1 - lengths).to(y.dtype), -(y.mH @ y))
        y = y + 0.5 * (y @ missing)
    return y


def defect(y: Tensor) -> Tensor:
    """|y^H y - I|_F in double precision, one number per matrix (..., n, k) with n >= k."""
    y = precise(y)
    identity = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    return torch.linalg.matrix_norm(y.mH @ y - identity)


def polar(y: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (no derivative): U V^H of the SVD.

    Args:
        y: (..., n, k) with n >= k. Rank deficient: one of the nearest.
    """
    with torch.no_grad():
        wide = precise(y)
        if bool((defect(wide) < 0.1).all()):
            return newton_schulz(wide, 4).to(y.dtype)
        u, _, vh = torch.linalg.svd(wide, full_matrices=False)
        return newton_schulz(u @ vh).to(y.dtype)


def rotation(y: Tensor) -> Tensor:
    """The nearest real matrix with orthonormal columns and determinant 1 (no derivative).

    U diag(1, ..., 1, det(U V^T)) V^T of the SVD, singular values in descending order (Kabsch 1976).
    """
    with torch.no_grad():
        near = polar(precise(y))
        turned = torch.linalg.det(near) < 0
        if not bool(turned.any()):
            return near.to(y.dtype)
        u, _, vh = torch.linalg.svd(precise(y))
        ends = torch.ones_like(u[..., 0, :])
        ends[..., -1] = torch.linalg.det(u) * torch.linalg.det(vh)
        found = newton_schulz((u * ends.unsqueeze(-2)) @ vh)
        return torch.where(turned[..., None, None], found, near).to(y.dtype)


def positive_qr(y: Tensor) -> tuple[Tensor, Tensor]:
    """QR factorisation with a positive diagonal of R, for columns that are independent."""
    q, r = torch.linalg.qr(y)
    phase = torch.diagonal(r, dim1=-2, dim2=-1).sgn()
    return q * phase.unsqueeze(-2), phase.conj().unsqueeze(-1) * r


def haar(gaussian: Tensor) -> Tensor:
    """Haar distributed columns from a Gaussian matrix (..., n, k), n >= k.

    The Q of a QR factorisation whose R has a positive diagonal (Mezzadri, math-ph/0609050).
    """
    return positive_qr(gaussian)[0]
