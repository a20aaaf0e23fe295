"""Real symplectic matrices: y^T J y = J, J = [[0, I], [-I, 0]], by their polar decomposition.

A matrix of size 2n is the sum of a part that commutes with J, [[A, B], [-B, A]], which stands for
the complex matrix A + i B, and one that anticommutes, [[P, Q], [Q, -P]]. In the Lie algebra the
first part is skew and the second symmetric.
"""

import torch
from torch import Tensor

from .elementary import precise
from .orthogonal import exponential_from, haar, polar
from .roots import hypotenuse

__all__ = [
    "anticommuting",
    "defect",
    "haar_rotation",
    "positive",
    "rotation_and_generator",
    "rotation_from",
]


def _blocks(y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = y.shape[-1] // 2
    return y[..., :n, :n], y[..., :n, n:], y[..., n:, :n], y[..., n:, n:]


def _joined(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.cat((torch.cat((a, b), dim=-1), torch.cat((c, d), dim=-1)), dim=-2)


def _commuting(y: Tensor) -> tuple[Tensor, Tensor]:
    """A and B of the part that commutes with J."""
    a, b, c, d = _blocks(y)
    return 0.5 * (a + d), 0.5 * (b - c)


def _embedded(z: Tensor) -> Tensor:
    return _joined(z.real, z.imag, -z.imag, z.real)


def anticommuting(y: Tensor) -> Tensor:
    """The symmetric part of what anticommutes with J: S = [[P, Q], [Q, -P]], P and Q symmetric."""
    a, b, c, d = _blocks(y)
    p, q = 0.5 * (a - d), 0.5 * (b + c)
    p, q = 0.5 * (p + p.mT), 0.5 * (q + q.mT)
    return _joined(p, q, q, -p)


def positive(s: Tensor) -> Tensor:
    """S + (I + S^2)^1/2 = exp(asinh S), symmetric, positive definite and symplectic.

    asinh is odd, so asinh S anticommutes with J as S does. It grows like 2 |S|, where exp
    overflows.
    """
    return s + hypotenuse(s)


def rotation_from(base: Tensor | None, x: Tensor) -> Tensor:
    """base exp(K), K the skew part of what commutes with J in x: orthogonal and symplectic."""
    a, b = _commuting(x)
    a, b = 0.5 * (a - a.mT), 0.5 * (b + b.mT)
    return exponential_from(base, _joined(a, b, -b, a))


def rotation_and_generator(y: Tensor) -> tuple[Tensor, Tensor]:
    """K and S with y = K positive(S) for a symplectic y; for others a choice near to that.

    In y = K S + K (I + S^2)^1/2 the second summand is what commutes with J, and K its unitary polar
    factor, in double precision.
    """
    k = _embedded(polar(torch.complex(*_commuting(precise(y)))))
    return k, anticommuting(k.mT @ precise(y))


def haar_rotation(y: Tensor) -> Tensor:
    """Haar distributed orthogonal symplectic matrices from Gaussian ones."""
    return _embedded(haar(torch.complex(*_commuting(y))))


def defect(y: Tensor) -> Tensor:
    """|y^T J y - J| / |y|^2 in Frobenius norms, |y| at least that of the identity."""
    wide, n = precise(y), y.shape[-1] // 2
    one = torch.eye(n, dtype=wide.dtype, device=y.device).expand(*y.shape[:-2], n, n)
    j = _joined(torch.zeros_like(one), one, -one, torch.zeros_like(one))
    size = torch.linalg.matrix_norm(wide)
    # By way of the size: squares of large entries overflow.
    scaled = wide / size.clamp_min(1.0)[..., None, None]
    off = scaled.mT @ (j @ scaled) - j / size.clamp_min(1.0).square()[..., None, None]
    least = size.square().clamp_min(2.0 * n) / size.clamp_min(1.0).square()
    return torch.linalg.matrix_norm(off) / least
