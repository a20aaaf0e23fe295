"""Maps onto matrices with orthonormal columns; for n x k with k < n nothing here is n x n."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .cayley import cayley_square
from .elementary import determinant_sign, precise, with_value
from .kernel import Kernel, adjoint, is_traced
from .polar import polar_factor
from .skew import skew
from .skew_exponential import expm_skew
from .tall import CAYLEY, EXP, cayley_tall, exponential_tall

__all__ = [
    "cayley",
    "cayley_from",
    "defect",
    "determinant_gap",
    "exponential",
    "exponential_from",
    "first_columns",
    "haar",
    "log_det_cayley",
    "moved",
    "newton_schulz",
    "polar",
    "polar_factor",
    "polished",
    "positive_qr",
    "rotation",
    "special",
    "transport",
    "without_phase",
]


def first_columns(y: Tensor) -> Tensor:
    """I_{n x k}: the first k columns of the identity, in the shape of ``y`` (..., n, k)."""
    n, k = y.shape[-2:]
    return torch.eye(n, k, dtype=y.dtype, device=y.device).expand(y.shape)


def exponential(x: Tensor) -> Tensor:
    """exp(A) I_{n x k} with A = [[S, -R^H], [R, 0]], S = skew(top of x), R = rest of x.

    Args:
        x: (..., n, k) with n >= k.

    Returns:
        (..., n, k), I_{n x k} at x = 0.
    """
    return expm_skew(skew(x)) if x.shape[-2] == x.shape[-1] else exponential_tall(x)


def cayley(x: Tensor) -> Tensor:
    """(I - A/2)^-1 (I + A/2) I_{n x k} with A = [[S, -R^H], [R, 0]] as in :func:`exponential`.

    Args:
        x: (..., n, k) with n >= k.

    Returns:
        (..., n, k), I_{n x k} at x = 0; real results have no eigenvalue -1 when n = k.
    """
    return cayley_square(None, x) if x.shape[-2] == x.shape[-1] else cayley_tall(x)


def log_det_cayley(x: Tensor) -> Tensor:
    """log of the volume that :func:`cayley` makes of a volume of x, in the uniform measure.

    With C = (I - A/2)^-1 the unitary Q = C (I + A/2) moves by Q^H dQ = C^H dA C. In the first k
    columns, dA = [[dS, -dR^H], [dR, *]] and H = C_11: dS alone gives H^H dS H on top, a factor
    |det H|^(k - 1); with the top held, dS = (dR^H R - R^H dR)/2, and what is left below is dR H,
    since C_22^H + R H^H R^H/4 = I: a factor |det H|^(n - k). Together |det H|^(n - 1), of complex
    matrices (dS with its imaginary diagonal) |det H|^(2 n); H = (I - S/2 + R^H R/4)^-1. For n = k
    it is the density of Haar measure under the Cayley transform.

    Args:
        x: (..., n, k) with n >= k.

    Returns:
        (...): volume of the entries of Q^H dy, of its top block those below the diagonal.
    """
    n, k = x.shape[-2:]
    identity = torch.eye(k, dtype=x.dtype, device=x.device)
    inverse = identity - 0.5 * skew(x[..., :k, :])
    if n > k:
        inverse = inverse + 0.25 * (x[..., k:, :].mH @ x[..., k:, :])
    return -(2 * n if x.is_complex() else n - 1) * torch.linalg.slogdet(inverse)[1]


def exponential_from(base: Tensor | None, x: Tensor) -> Tensor:
    """:func:`exponential`, moved to ``base``, orthonormal to rounding."""
    return (
        _placed(exponential_tall, _EXP_FROM, base, x)
        if _is_tall(x)
        else moved(exponential(x), base)
    )


def cayley_from(base: Tensor | None, x: Tensor) -> Tensor:
    """:func:`cayley`, moved to ``base``, orthonormal to rounding."""
    if _is_tall(x):
        return _placed(cayley_tall, _CAYLEY_FROM, base, x)
    return polished(cayley_square(base, x))


def _is_tall(x: Tensor) -> bool:
    return x.shape[-2] > x.shape[-1]


def _placed(
    f: Callable[[Tensor], Tensor], kernel: Kernel, base: Tensor | None, x: Tensor
) -> Tensor:
    """f(x), or ``kernel``, which is that with the transport, polished where it is to gain by it.

    Tall values in single precision do not: they come rounded from double precision.
    """
    if base is None or is_traced(x) or x.numel() == 0:
        y = f(x) if base is None else transport(base, f(x))
    else:
        y = kernel(base.detach().expand(x.shape), x)
    return y if y.dtype in (torch.float32, torch.complex64) else polished(y)


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
    base = base.detach().expand(z.shape)
    if is_traced(z) or z.numel() == 0:
        return _reflected(z, *_reflectors(base))
    return _TRANSPORT(base, z)


def _reflectors(base: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """V, T and the diagonal of D. Two thirds of the time of a transport and its way back."""
    packed, tau = torch.geqrf(base)
    phase = torch.diagonal(packed, dim1=-2, dim2=-1).sgn().unsqueeze(-2)
    v = packed.tril_(-1)
    torch.diagonal(v, dim1=-2, dim2=-1).fill_(1)
    identity = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
    mixing = identity + tau.unsqueeze(-1) * (adjoint(v) @ v).triu(1)
    t = torch.linalg.solve_triangular(mixing, torch.diag_embed(tau), upper=True)
    return v, t, phase


def _reflected(z: Tensor, v: Tensor, t: Tensor, phase: Tensor) -> Tensor:
    return (z - v @ (t @ (adjoint(v) @ z))) * phase


def _transported(base: Tensor, z: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
    v, t, phase = _reflectors(base)
    y = v @ (t @ (adjoint(v) @ z))
    return torch.sub(z, y, out=y).mul_(phase), (v, t, phase)


def _transported_back(
    g: Tensor, inputs: tuple[Tensor, ...], kept: tuple[Any, ...]
) -> tuple[None, Tensor]:
    del inputs
    v, t, phase = kept
    turn = phase.conj().resolve_conj()
    pulled = v @ (adjoint(t) @ ((adjoint(v) @ g) * turn))
    return None, pulled.neg_().addcmul_(g, turn)


def _transported_again(g: Tensor, base: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    del z
    v, t, phase = _reflectors(base)
    g = g * phase.conj()
    return torch.zeros_like(base), g - v @ (t.mH @ (v.mH @ g))


_TRANSPORT = Kernel(_transported, _transported_back, _transported_again)


def _then_transported(tall: Kernel) -> Kernel:
    """(base, x) -> the value of ``tall`` transported to base, without keeping what is between."""

    def there(base: Tensor, x: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        z, kept = tall.there(x)
        y, reflectors = _transported(base, z)
        return y, (*reflectors, *kept)

    def back(
        g: Tensor, inputs: tuple[Tensor, ...], kept: tuple[Any, ...]
    ) -> tuple[Tensor | None, ...]:
        _, own = _transported_back(g, (), kept[:3])
        return None, *tall.back(own, inputs[1:], kept[3:], over=True)

    def again(g: Tensor, base: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        zero, gz = _transported_again(g, base, x)
        return zero, *tall.again(gz, x)

    return Kernel(there, back, again)


_EXP_FROM, _CAYLEY_FROM = _then_transported(EXP), _then_transported(CAYLEY)


def moved(z: Tensor, base: Tensor | None) -> Tensor:
    """``z`` transported to ``base`` (None: left where it is), orthonormal to rounding."""
    return polished(z if base is None else transport(base, z))


def polished(y: Tensor) -> Tensor:
    """``y`` with the digits of y^H y = I that squaring, solving and products have lost with |x|.

    One or two steps of :func:`newton_schulz`: on the CPU one where it is enough, elsewhere two, as
    to ask would be to wait. They correct rounding and are no part of the derivative.
    """
    if is_traced(y) or y.numel() == 0:
        return with_value(y, newton_schulz(y.detach(), 2))
    polish: Tensor = _Polish.apply(y)
    return polish


_MOST_STEPS = 8  # for x of norm 1e6, whose squarings have left no digit


class _Polish(torch.autograd.Function):
    """The identity to autograd: unlike a kernel it keeps nothing for the way back."""

    @staticmethod
    def forward(y: Tensor) -> Tensor:
        asks, small = y.device.type == "cpu", torch.finfo(y.dtype).eps ** 0.5
        for _ in range(_MOST_STEPS if asks else 2):
            missing = _missing(y)
            y = y + 0.5 * (y @ missing)
            # The step leaves 3/8 of the square of what was missing.
            if asks and not bool(torch.linalg.matrix_norm(missing).amax() > small):
                break
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # noqa: ARG004
        return g

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # noqa: ARG004
        return tangent.clone()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], y: Tensor) -> tuple[Tensor, int]:  # noqa: ARG004
        return _Polish.apply(y.movedim(in_dims[0], 0)), 0


def _missing(y: Tensor) -> Tensor:
    """I - y^H y.

    Many small squares are lost when they are added to a 1 in single precision, and a step would
    put them into y (1e-5 at n = 128): the diagonal of y^H y is summed in double precision.
    """
    on_diagonal = torch.eye(y.shape[-1], dtype=torch.bool, device=y.device)
    squares = y.real.square() + y.imag.square() if y.is_complex() else y.square()
    wide = y.real.dtype if y.device.type == "mps" else torch.float64
    lengths = squares.sum(dim=-2, keepdim=True, dtype=wide)
    return torch.where(on_diagonal, (1 - lengths).to(y.dtype), -(y.mH @ y))


def newton_schulz(y: Tensor, steps: int = 1) -> Tensor:
    """Nearer to the polar factor of ``y``: y + y (I - y^H y) / 2, quadratic for a small defect."""
    for _ in range(steps):
        y = y + 0.5 * (y @ _missing(y))
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


def special(y: Tensor) -> Tensor:
    """A near matrix with orthonormal columns and determinant 1 (no derivative), square.

    Real: :func:`rotation`. Complex: the polar factor times the scalar that takes the smallest turn.
    That is the nearest one for unitary y, where all angles count the same.
    """
    if not y.is_complex():
        return rotation(y)
    with torch.no_grad():
        return without_phase(polar(precise(y))).to(y.dtype)


def without_phase(y: Tensor) -> Tensor:
    """Unitary ``y`` times the scalar nearest to 1 that makes the determinant 1.

    For a determinant that is 1 but for rounding: the scalar is no part of the derivative. Real
    ``y`` are left as they are.
    """
    if not y.is_complex() or y.shape[-1] == 0:
        return y
    value = y.detach()
    turn = determinant_sign(value).angle() / y.shape[-1]
    phase = torch.polar(torch.ones_like(turn), -turn).to(y.dtype)[..., None, None]
    return with_value(y, value * phase)


def determinant_gap(y: Tensor) -> Tensor:
    """Distance from a unitary matrix with the direction of det y to the nearest one with det 1.

    Real: 2 for a reflection. Complex, det y = r exp(i t): n^1/2 |exp(i t / n) - 1|.
    """
    direction = determinant_sign(y)
    if not y.is_complex():
        return 2.0 * (direction < 0)
    n = max(y.shape[-1], 1)
    return 2 * n**0.5 * (direction.angle() / (2 * n)).sin().abs()


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
