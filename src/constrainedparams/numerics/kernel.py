"""Functions of tensors with a derivative written by hand, for every way in which torch asks for it.

A kernel is three functions: there and back as fast as they go, and the way back once more as
operations that autograd sees. What is kept from the way there is constant to autograd, so that a
derivative of the way back (grad mode is on in it, or a tangent comes along) is the third one.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["Kernel", "adjoint", "by_formula", "has_tangent", "in_front", "is_traced"]


class Kernel(NamedTuple):
    """A function of tensors (..., *, *) of equal batch shape; all three treat batches as elements.

    Args:
        there: inputs -> (value, kept): ``kept`` is a tuple of tensors with the batch axes of the
            inputs, and of objects that are none.
        back: (g, inputs, kept) -> gradients of the inputs (None: a constant); linear in ``g``.
        again: (g, *inputs) -> the same, in operations with derivatives of their own.
        with_value: whether ``kept`` in ``back`` begins with the value.
    """

    there: Callable[..., tuple[Tensor, tuple[Any, ...]]]
    back: Callable[..., tuple[Tensor | None, ...]]
    again: Callable[..., tuple[Tensor, ...]]
    with_value: bool = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        value: Tensor = _Run.apply(self, *inputs)[0]
        return value


def by_formula(formula: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """The ``again`` of a kernel that is also ``formula``, as torch differentiates it."""

    def again(g: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        pulled: tuple[Tensor, ...] = torch.func.vjp(formula, *inputs)[1](g)
        return pulled

    return again


def has_tangent(t: Tensor) -> bool:
    """Whether ``t`` is a dual number of forward mode."""
    return forward_ad.unpack_dual(t).tangent is not None


class _Run(torch.autograd.Function):
    """A kernel in eager mode and under the transforms of torch.func."""

    @staticmethod
    def forward(kernel: Kernel, *inputs: Tensor) -> tuple[Any, ...]:
        value, kept = kernel.there(*inputs)
        return value, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        ctx.kernel, *tensors = inputs
        ctx.count, ctx.outputs = len(tensors), len(output)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for t in output[1:] if isinstance(t, Tensor)))
        kept = output if ctx.kernel.with_value else output[1:]
        ctx.others = [None if isinstance(t, Tensor) else t for t in kept]
        ctx.save_for_backward(*tensors, *(t for t in kept if isinstance(t, Tensor)))
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * (1 + ctx.count)
        saved = ctx.saved_tensors
        inputs, known = saved[: ctx.count], iter(saved[ctx.count :])
        if torch.is_grad_enabled() or any(map(has_tangent, (g, *inputs))):
            return None, *ctx.kernel.again(g, *inputs)
        kept = tuple(next(known) if other is None else other for other in ctx.others)
        return None, *ctx.kernel.back(g, inputs, kept)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Any, ...]:
        """The transpose of the way back, which is linear in what comes in."""
        # Without the tangents, which would have the way back ask for this function again.
        inputs = [forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors]
        known = zip(inputs, tangents, strict=True)
        along = tuple(torch.zeros_like(x) if t is None else t for x, t in known)
        zero = ctx.kernel(*(x.detach() for x in inputs))
        push = torch.func.vjp(lambda g: ctx.kernel.again(g, *inputs), torch.zeros_like(zero))[1]
        return push(along)[0], *(None,) * (ctx.outputs - 1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        kernel, *inputs = args
        moved = in_front(info.batch_size, in_dims[1:], inputs)
        outputs = _Run.apply(kernel, *moved)
        return outputs, tuple(0 if isinstance(t, Tensor) else None for t in outputs)


def in_front(
    size: int, dims: tuple[int | None, ...], given: list[Any] | tuple[Any, ...]
) -> list[Any]:
    """Tensors with the axis that is mapped over in front, also where it has to be made."""

    def moved(t: Any, dim: int | None) -> Any:
        if not isinstance(t, Tensor):
            return t
        return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)

    return [moved(t, dim) for t, dim in zip(given, dims, strict=True)]


def adjoint(x: Tensor) -> Tensor:
    """x^H; compiled graphs run with lazy conjugation switched off, so that x.mH would be x^T."""
    return x.mH.resolve_conj()


def is_traced(a: Tensor) -> bool:
    """Whether the values of ``a`` cannot be asked for, or the answer would be part of a graph."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return True
    proxies = sys.modules.get("torch.fx.experimental.proxy_tensor")  # of make_fx; heavy to import
    if proxies is not None and proxies.get_proxy_mode() is not None:
        return True
    return a.is_meta or type(a) not in (Tensor, torch.nn.Parameter)
