"""Elementwise functions and the few lines that every file of this folder needs."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "above_zero",
    "angle",
    "beyond",
    "determinant_sign",
    "inverse_softplus",
    "least",
    "oriented",
    "precise",
    "real_diagonal",
    "rounded_beyond",
    "shortened",
    "softplus",
    "with_value",
]

# log(1 + exp(x)) - x < exp(-40) = 4e-18 is below the rounding of x in float64; torch's default
# threshold of 20 leaves 2e-9, which a round trip in float64 sees.
_THRESHOLD = 40.0


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), to rounding in float64 too."""
    return F.softplus(x, threshold=_THRESHOLD)


def inverse_softplus(y: Tensor) -> Tensor:
    """The x with softplus(x) = y, for y > 0: log(exp(y) - 1) = y + log(1 - exp(-y))."""
    return y + torch.log(-torch.expm1(-y))


def precise(t: Tensor) -> Tensor:
    """``t`` in double precision where the device has it."""
    if t.device.type == "mps":
        return t
    return t.to(torch.complex128 if t.is_complex() else torch.float64)


def real_diagonal(x: Tensor) -> Tensor:
    """Re diag x: (..., n) of (..., n, n).

    The diagonal of the real part: of a complex one Inductor (torch 2.13) loses the gradient.
    """
    return torch.diagonal(x.real, dim1=-2, dim2=-1)


def with_value(y: Tensor, value: Tensor) -> Tensor:
    """A tensor with the value of ``value`` and the derivative of ``y``.

    For a ``value`` that is the exact y up to rounding (y clamped strictly inside, y made orthogonal
    once more): the derivative of the rounding correction is noise and stays out.
    """
    return y + (value - y).detach()


def least(dtype: torch.dtype) -> float:
    """The smallest positive number of a dtype that no device flushes to 0.

    The smallest normal one: some devices flush the subnormal ones to 0. None does so in float16,
    where the normal ones end at 6e-5.
    """
    info = torch.finfo(dtype)
    return info.tiny * info.eps if dtype == torch.float16 else info.tiny


def above_zero(y: Tensor) -> Tensor:
    """``y`` with values that were rounded to 0 replaced by the ``least`` number of its dtype."""
    return with_value(y, y.clamp_min(least(y.dtype)))


def beyond(bound: Tensor, sign: int) -> Tensor:
    """The first number above (sign 1) or below (sign -1) the bound, in its dtype.

    Next to 0 the ``least`` one.
    """
    step = torch.nextafter(bound, torch.full_like(bound, sign * torch.inf))
    far = bound + sign * least(bound.dtype)
    return torch.maximum(step, far) if sign > 0 else torch.minimum(step, far)


def shortened(y: Tensor, dtype: torch.dtype) -> Tensor:
    """``y`` in a shorter ``dtype``; what is beyond its largest number becomes that."""
    largest = torch.finfo(dtype).max
    return with_value(y, y.clamp(-largest, largest)).to(dtype)


def rounded_beyond(y: Tensor, dtype: torch.dtype, bound: Tensor, sign: int) -> Tensor:
    """``y`` in a shorter ``dtype``, still on its side of the bound, which keeps its own dtype."""
    short = bound.to(dtype)
    crossed = sign * (short.to(bound.dtype) - bound) <= 0
    limit = torch.where(crossed, beyond(short, sign), short)
    rounded = shortened(y, dtype)
    kept = torch.maximum(rounded, limit) if sign > 0 else torch.minimum(rounded, limit)
    return with_value(rounded, kept)


def angle(x: Tensor) -> Tensor:
    """x modulo 2 pi, in [-pi, pi]. Sine and cosine reduce x to rounding, however large it is."""
    return torch.atan2(torch.sin(x), torch.cos(x))


def determinant_sign(y: Tensor) -> Tensor:
    """det y / |det y|; by the LU factorisation, as det y itself under- and overflows."""
    return torch.linalg.slogdet(precise(y))[0]


def oriented(y: Tensor) -> Tensor:
    """``y``, its first column turned so that the determinant is positive."""
    sign = determinant_sign(y).conj().to(y.dtype)[..., None, None]
    return torch.cat((sign * y[..., :1], y[..., 1:]), dim=-1)
