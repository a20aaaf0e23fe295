"""The exponential of a matrix, with a derivative that does not depend on the gradient's size."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["expm", "frechet"]


class _Expm(torch.autograd.Function):
    """exp(A), pullback G -> L(A^H, G), pushforward T -> L(A, T), L the Frechet derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(a)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return frechet(a.mH, g)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return frechet(a, tangent)


# Dynamo refuses a Function with forward mode, and a custom op has no forward mode: one of each.
@torch.library.custom_op("constrainedparams::expm", mutates_args=())
def _expm(a: Tensor) -> Tensor:
    return torch.linalg.matrix_exp(a).contiguous()


@_expm.register_fake
def _(a: Tensor) -> Tensor:
    return torch.empty(a.shape, dtype=a.dtype, device=a.device)


@_expm.register_vmap
def _(info: Any, in_dims: tuple[int | None], a: Tensor) -> tuple[Tensor, int]:  # noqa: ARG001
    assert in_dims[0] is not None
    return _expm(a.movedim(in_dims[0], 0)), 0


def _save(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _pullback(ctx: Any, g: Tensor) -> Tensor:
    (a,) = ctx.saved_tensors
    return frechet(a.mH, g, _expm)


_expm.register_autograd(_pullback, setup_context=_save)


def expm(a: Tensor) -> Tensor:
    """exp(A) for a batch of square matrices, differentiable to any order.

    The derivative of ``torch.linalg.matrix_exp`` chooses its scaling by the norm of the block
    matrix [[A, G], [0, A]], so the size of the incoming gradient G decides how accurate it is (4th
    digit wrong for |G| = 1e3 ... 1e6 in float32). Here the largest entry of G is divided out.

    Args:
        a: (..., n, n), real or complex.

    Returns:
        (..., n, n).
    """
    return (_expm if torch.compiler.is_dynamo_compiling() else _Expm.apply)(a)


def frechet(a: Tensor, g: Tensor, exp: Callable[[Tensor], Tensor] = expm) -> Tensor:
    """L(A, G): the derivative of exp at A in the direction G, linear in G.

    exp([[A, G], [0, A]]) = [[exp(A), L(A, G)], [0, exp(A)]] (Mathias 1996). G is divided by its
    largest entry s, and s multiplied back: exact by linearity, so s is a constant to autograd.
    """
    n = a.shape[-1]
    if n == 0:
        return g
    with torch.no_grad():
        peak = g.abs().amax(dim=(-2, -1), keepdim=True)
        scale = peak.clamp_min(torch.finfo(g.dtype).tiny)
    upper = torch.cat((a, g / scale), dim=-1)
    lower = torch.cat((torch.zeros_like(a), a), dim=-1)
    return scale * exp(torch.cat((upper, lower), dim=-2))[..., :n, n:]
