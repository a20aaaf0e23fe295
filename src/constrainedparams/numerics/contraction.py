"""The map X -> X L^-H with L L^H = I + X^H X onto matrices of spectral norm below 1, and back."""

from typing import Any

import torch
from torch import Tensor

from .elementary import precise

__all__ = ["contraction", "expansion"]


def _half(s: Tensor) -> Tensor:
    """The lower triangle with half of the diagonal: L^-1 dL for d(L L^H) = L s L^H, s Hermitian."""
    return s.tril() - 0.5 * torch.diag_embed(torch.diagonal(s, dim1=-2, dim2=-1))


def _factors(x: Tensor) -> tuple[Tensor, Tensor]:
    """X L^-H and L.

    [X; I] = [Q1; Q2] R has R^H R = I + X^H X, so R = L^H and Q1 = X L^-H, within rounding of the
    ball for every X. In single precision the Gram matrix in double does as well at half the cost:
    the small multiple of |X|^2 that covers its rounding keeps it definite, and y inside.
    """
    n, k = x.shape[-2:]
    wide = precise(x)
    identity = torch.eye(k, dtype=wide.dtype, device=x.device)
    if wide.dtype == x.dtype:
        q, r = torch.linalg.qr(torch.cat((x, identity.expand(*x.shape[:-2], k, k)), dim=-2))
        phase = torch.diagonal(r, dim1=-2, dim2=-1).sgn()
        y, l = q[..., :n, :] * phase.unsqueeze(-2), (phase.conj().unsqueeze(-1) * r).mH
        return y.resolve_conj().contiguous(), l.resolve_conj().contiguous()
    square = torch.linalg.matrix_norm(wide, keepdim=True).square()
    cover = 2 * (n + k) * torch.finfo(wide.dtype).eps * square
    l, _ = torch.linalg.cholesky_ex(wide.mH @ wide + (1 + cover) * identity)
    y = torch.linalg.solve_triangular(l, wide.mH, upper=False).mH
    return y.to(x.dtype).resolve_conj().contiguous(), l.to(x.dtype).resolve_conj().contiguous()


class _Contraction(torch.autograd.Function):
    """Y and L. With Z = dX L^-H and S = Z^H Y + Y^H Z = L^-1 d(X^H X) L^-H:

    dL = L half(S) and dY = Z - Y half(S)^H. The adjoint takes two products and a triangular solve.
    Both results are saved as what they are, functions of X, so that it has derivatives itself.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return _factors(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:  # noqa: ARG004
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gl: Tensor | None) -> Tensor | None:
        y, l = ctx.saved_tensors
        if gy is None and gl is None:
            return None
        slope = torch.zeros_like(l) if gy is None else -(gy.mH @ y)
        t = _half(slope if gl is None else slope + l.mH @ gl)
        z = y @ (t + t.mH)
        z = z if gy is None else gy + z
        return torch.linalg.solve_triangular(l, z, upper=False, left=False)


class _ContractionForward(_Contraction):
    """Dynamo refuses a Function that has a forward mode."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, Tensor]:
        y, l = ctx.saved_tensors
        z = torch.linalg.solve_triangular(l, tangent.mH, upper=False).mH
        half = _half(z.mH @ y + y.mH @ z)
        return (z - y @ half.mH).resolve_conj().contiguous(), l @ half


def contraction(x: Tensor) -> tuple[Tensor, Tensor]:
    """Y = X L^-H, of spectral norm below 1 but for rounding, and L; L L^H = I + X^H X.

    One-to-one onto the open ball, and differentiable to any order. I - Y^H Y = L^-1 L^-H.

    Args:
        x: (..., n, k); at least as many rows as columns is cheaper.

    Returns:
        (..., n, k) and (..., k, k), lower triangular with a positive diagonal.
    """
    function = _Contraction if torch.compiler.is_dynamo_compiling() else _ContractionForward
    result: tuple[Tensor, Tensor] = function.apply(x)
    return result


def expansion(y: Tensor, reach: float) -> Tensor:
    """The X with contraction(X) = Y, in double precision; singular values are cut at 1 - reach.

    Y = U S V^H gives I - Y^H Y = L^-1 L^-H with L^-H = R of the QR factorisation Q R of
    (I - S^2)^1/2 V^H, and X = Y R^-1 = U S (I - S^2)^-1/2 Q. No derivative.

    Args:
        y: (..., n, k) with n >= k.
    """
    u, s, vh = torch.linalg.svd(precise(y), full_matrices=False)
    s = s.clamp_max(1 - reach)
    roots = ((1 - s) * (1 + s)).sqrt()
    q, r = torch.linalg.qr(roots.unsqueeze(-1) * vh)
    phase = torch.diagonal(r, dim1=-2, dim2=-1).sgn()
    return (u * (s / roots).unsqueeze(-2)) @ (q * phase.unsqueeze(-2))
