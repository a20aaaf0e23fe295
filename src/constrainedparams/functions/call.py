"""One way to call f, whatever it is."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FunctionError
from ..sets.contract import Constraint, raised
from .describe import describe

Place = tuple[dict[str, Any], str, nn.Parameter]


def parameters_of(function: Any) -> list[nn.Parameter]:
    """The parameters of an ``nn.Module`` f, each once; any other has none that it owns."""
    return list({id(p): p for _, _, p in places_of(function)}.values())


def places_of(function: Any) -> list[Place]:
    """Where an ``nn.Module`` f keeps its parameters, in the order of ``function.parameters()``."""
    if not isinstance(function, nn.Module):
        return []
    found: list[Place] = []
    seen, stack = set(), [function]
    while stack:
        part = stack.pop()
        if part in seen:
            continue
        seen.add(part)
        entries: Any = part._parameters
        found += [(entries, key, p) for key, p in entries.items() if p is not None]
        if part._modules:
            stack += [child for child in reversed(part._modules.values()) if child is not None]
    return found


def call(
    function: Any,
    x: Tensor,
    state: Mapping[str, Tensor],
    own: Sequence[Tensor] = (),
    places: Sequence[Place] = (),
) -> Tensor:
    """f(x) with ``own`` for f's parameters, in at least float32, rounded to x's dtype.

    ``places`` are where f keeps them, if that is known.
    """
    if isinstance(function, Constraint):
        return function.forward(x, **state)  # it rounds by itself: an open bound stays open
    raw = raised(x)
    if own:
        held = places or places_of(function)
        y = _with_parameters(function, [raised(t) for t in own], raw, held)
    else:
        y = function(raw)
    if not isinstance(y, Tensor):
        raise FunctionError(
            f"{describe(function)} returned {type(y).__name__}; a constrained parameter needs one "
            "tensor. Return the tensor itself, not a tuple, list or number."
        )
    if y.dtype != raw.dtype:
        raise FunctionError(
            f"{describe(function)} returned {y.dtype} for an input of {raw.dtype}; the constrained "
            f"tensor keeps the dtype of its parameter. End the function with `.to(x.dtype)`."
        )
    if y.device != x.device:
        raise FunctionError(
            f"{describe(function)} returned a tensor on {y.device} for an input on {x.device}. "
            "Create its constants on `x.device`, or make the function an nn.Module with buffers."
        )
    if y.layout != torch.strided:
        raise FunctionError(
            f"{describe(function)} returned a tensor of layout {y.layout}; expected a dense one. "
            "End the function with `.to_dense()`."
        )
    return y if y.dtype == x.dtype else y.to(x.dtype)


def _with_parameters(
    function: Any, own: Sequence[Tensor], x: Tensor, places: Sequence[Place]
) -> Any:
    """``torch.func.functional_call`` in a third of its time: it parses names at each call."""
    # Parameters that are used twice count once, as in parameters_of.
    given = own
    if len(own) != len(places):
        of = dict(zip({id(p): None for _, _, p in places}, own, strict=True))
        given = [of[id(p)] for _, _, p in places]
    try:
        for (entries, key, _), tensor in zip(places, given, strict=True):
            entries[key] = tensor
        return function(x)
    finally:
        for entries, key, p in places:
            entries[key] = p


def finite_or_raise(function: Any, y: Tensor, where: str) -> None:
    """NaN and infinity are refused at registration, where the start can still be changed."""
    if not bool(torch.isfinite(y).all()):
        bad = int((~torch.isfinite(y)).sum())
        raise FunctionError(
            f"{where}: {describe(function)} gave {bad} of {y.numel()} entries that are NaN or "
            "infinite at the present value of the parameter. Start from a value on which the "
            "function is finite, or write the function so that it is."
        )


def differentiable_or_raise(function: Any, y: Tensor, where: str) -> None:
    """A loss beside other weights would train without this one, and nobody would be told."""
    if not y.requires_grad:
        raise FunctionError(
            f"{where}: {describe(function)} gave a tensor without a derivative in x, so that x "
            "would never train. Leave `detach()`, `torch.no_grad()` and NumPy out of the function; "
            "for a weight that is not to train call `requires_grad_(False)` on it first."
        )


def same_values(one: Tensor, other: Tensor) -> bool:
    """Equal, with NaN equal to itself."""
    return torch.equal(one, other) or bool(torch.isclose(one, other, 0, 0, equal_nan=True).all())


def written_to(function: Any, where: str) -> FunctionError:
    """An ``nn.init`` function in place of a set draws x anew at each change of x."""
    return FunctionError(
        f"{where}: {describe(function)} writes into the tensor that it gets, which is x itself. "
        "Let it return a new tensor, or begin it with `x = x.clone()`."
    )
