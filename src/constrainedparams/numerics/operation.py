"""Kernels and other functions of tensors as operations of torch, which compilers do not look into.

Dynamo refuses a Function with forward mode, and cannot follow plans that depend on values.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .kernel import Kernel, has_tangent, in_front
from .precision import full_precision

__all__ = ["like_the_first", "no_cuda_graph", "opaque", "operator", "refuse_tangents"]


def no_cuda_graph() -> None:
    """Called where an operation whose host waits for values tells a compiler what it returns.

    Inductor makes no CUDA graph of what has it in it. By the tag that torch has for this it would
    cut the graph in two there, and lose what is written into a concatenation before the cut.
    """
    inductor = sys.modules.get("torch._inductor.virtualized")
    graph: Any = None if inductor is None else inductor.V.graph
    while hasattr(graph, "disable_cudagraphs_reason"):
        graph.disable_cudagraphs_reason = (
            "a map of constrainedparams waits for values; constrainedparams.compile runs it outside"
        )
        graph = getattr(graph, "parent", None)  # of which it is a region


def like_the_first(x: Tensor, *_: Any) -> Tensor:
    """The ``shapes`` of an operation that waits for values and returns a tensor like its first."""
    no_cuda_graph()
    return x.new_empty(x.shape)


def opaque(
    name: str,
    schema: str,
    function: Callable[..., Any],
    shapes: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """``function`` as an operation that compilers do not look into.

    Args:
        name: below ``torch.ops.constrainedparams``. With another schema or derivative it needs
            another one: torch keeps compiled graphs on disk, which go by it.
        schema: its arguments and results, as torch writes them.
        function: returns new tensors; the operation makes them contiguous.
        shapes: arguments -> empty contiguous tensors like the results.
        backward, setup_context: its derivative as that of an ``autograd.Function``, for compiled
            and exported graphs. ``torch.func`` needs a real one around it.
    """

    def contiguous(*given: Any) -> Any:
        found = function(*given)
        if isinstance(found, Tensor):
            return found.contiguous()
        return type(found)(t.contiguous() for t in found)

    place = f"constrainedparams::{name}"
    made: Any = torch.library.custom_op(place, contiguous, mutates_args=(), schema=schema)
    operation: Any = getattr(torch.ops.constrainedparams, name).default

    def batched(info: Any, dims: tuple[int | None, ...], *given: Any) -> tuple[Any, Any]:
        found = operation(*in_front(info.batch_size, dims, given))
        return found, 0 if isinstance(found, Tensor) else type(found)([0] * len(found))

    made.register_fake(shapes)
    made.register_vmap(batched)
    if backward is not None:
        made.register_autograd(backward, setup_context=setup_context)
    return operation


def operator(
    name: str, kernel: Kernel, inputs: int = 1, waits: bool = True
) -> Callable[..., Tensor]:
    """``kernel`` as one opaque operation of compiled graphs, and one more for the way back.

    For kernels whose cost depends on values, or that call what autograd or a compiler must not see.
    The value has the shape and dtype of the last input. The way back makes the way there again.
    ``waits``: the host waits for values on the way.
    """
    given = ", ".join(f"Tensor x{i}" for i in range(inputs))
    value, pulled = _both_ways(kernel)

    def shapes(*tensors: Tensor) -> list[Tensor]:
        if waits:
            no_cuda_graph()
        return [t.new_empty(t.shape) for t in tensors]

    def backward(ctx: Any, g: Tensor) -> Any:
        way = kernel.again if torch.is_grad_enabled() else back
        found = tuple(way(g, *ctx.saved_tensors))
        return found if inputs > 1 else found[0]

    def save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
        ctx.save_for_backward(*inputs)

    there = opaque(name, f"({given}) -> Tensor", value, lambda *t: shapes(t[-1])[0], backward, save)
    schema = f"(Tensor g, {given}) -> Tensor[]"
    back = opaque(f"{name}_pullback", schema, pulled, lambda *t: shapes(*t[1:]))
    members: dict[str, Any] = {"forward": there, "setup_context": save, "backward": backward}
    function: Any = type(
        name,
        (torch.autograd.Function,),
        {"generate_vmap_rule": True, **{k: staticmethod(f) for k, f in members.items()}},
    )

    def called(*tensors: Tensor) -> Tensor:
        refuse_tangents(*tensors)
        apply = there if torch.compiler.is_dynamo_compiling() else function.apply
        result: Tensor = apply(*tensors)
        return result

    return called


def _both_ways(kernel: Kernel) -> tuple[Callable[..., Tensor], Callable[..., list[Tensor]]]:
    """Inputs -> value, and (g, inputs) -> gradients, as operations have to be."""

    def value(*tensors: Tensor) -> Tensor:
        with full_precision(tensors[0].device):
            return kernel.there(*map(Tensor.resolve_conj, tensors))[0]

    def pulled(*tensors: Tensor) -> list[Tensor]:
        g, *known = map(Tensor.resolve_conj, tensors)
        with full_precision(g.device):
            found, kept = kernel.there(*known)
            kept = (found, *kept) if kernel.with_value else kept
            grads: Any = kernel.back(g, tuple(known), kept)
        return list(grads)

    return value, pulled


def refuse_tangents(*tensors: Tensor) -> None:
    """An error where a dual number goes into an operation: torch drops its tangent in silence."""
    if any(map(has_tangent, tensors)):
        raise NotImplementedError(
            "Forward-mode derivatives (jvp, jacfwd, linearize) of this map are not available while "
            "a graph is traced. Use reverse mode there (vjp, jacrev, grad), or take them outside "
            "of the traced function."
        )
