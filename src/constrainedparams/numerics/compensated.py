"""Sums and products of double precision matrices in twice its digits, for residuals."""

import math

import torch
from torch import Tensor

__all__ = ["Twice", "exponential", "product", "total"]

Twice = tuple[Tensor, Tensor]  # a number as the sum of two: rounded, and what that left out
_BITS = 53
_TERMS = 24  # of the series below: 2^-24 / 24! is below 2^-100


def _plus(a: Tensor, b: Tensor) -> Twice:
    """a + b exactly (Knuth 1969)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def total(*terms: Tensor) -> Twice:
    """The sum of all."""
    high, low = terms[0], torch.zeros_like(terms[0])
    for term in terms[1:]:
        high, off = _plus(high, term)
        low = low + off
    return _plus(high, low)


def _leading(x: Tensor, dim: int, bits: int) -> Tensor:
    """x rounded to multiples of 2^-bits of the power of 2 above the largest entry along ``dim``."""
    parts = torch.view_as_real(x.resolve_conj()).abs().amax(-1) if x.is_complex() else x.abs()
    power = torch.frexp(parts.amax(dim, keepdim=True)).exponent.to(parts.dtype)
    carry = 1.5 * torch.exp2(power + (_BITS - 1 - bits))  # what is added to it loses the other bits
    carry = torch.complex(carry, carry) if x.is_complex() else carry
    return (x + carry) - carry


def product(a: Tensor, b: Tensor) -> Twice:
    """A B, off by about 2^-90 of the largest entries of a row of A and a column of B.

    Leading bits, so few that their products and the sums of those have no rounding, are multiplied
    exactly, what is next by what leads as well (Ozaki, Ogita, Oishi and Rump, Numer. Algorithms 59,
    2012); the rest in double precision: 6 products.

    Args:
        a, b: (..., n, k) and (..., k, m), both real or both complex, in double precision.
    """
    if a.numel() == 0 or b.numel() == 0:
        return a @ b, a @ b
    terms = a.shape[-1] * (2 if a.is_complex() else 1)
    bits = (_BITS - math.ceil(math.log2(terms))) // 2
    a1, b1 = _leading(a, -1, bits), _leading(b, -2, bits)
    a2, b2 = _leading(a - a1, -1, bits), _leading(b - b1, -2, bits)
    a3, b3 = a - a1 - a2, b - b1 - b2
    rest = a1 @ b3 + a2 @ (b2 + b3) + a3 @ b
    return total(a1 @ b1, a1 @ b2, a2 @ b1, rest)


def _over(t: Twice, k: int) -> Twice:
    """t / k for a number k of few bits: the remainder is exact by halves of the quotient."""
    high, low = t
    quotient = high / k
    carry = quotient * (2**27 + 1)  # Veltkamp's halves
    half = carry - (carry - quotient)
    return _plus(quotient, (((high - half * k) - (quotient - half) * k) + low) / k)


def exponential(a: Tensor) -> Twice:
    """exp(A) for A (..., n, n) in double precision: Taylor's series of A / 2^s, squared s times."""
    size = float(torch.linalg.matrix_norm(a).amax())
    squarings = math.frexp(size)[1] + 1 if 0 < size < math.inf else 0
    a = a / 2.0 ** max(squarings, 0)
    one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand(a.shape)
    high, low = one, torch.zeros_like(a)
    for k in range(_TERMS, 0, -1):
        high, low = _over((high, low), k)
        high, low = total(one, *product(a, high), a @ low)
    for _ in range(squarings):
        high, low = total(*product(high, high), high @ low, low @ high)
    return high, low
