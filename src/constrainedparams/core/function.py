"""The user's f in its three forms (a set, an nn.Module, a callable) behind one way to call it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConstraintViolation, FunctionError, NoRightInverse, ShapeError
from ..sets.contract import Constraint, raised, without_autocast
from . import private
from .tensors import raw_name, state_name


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """No autocast, no inference mode, no saved-tensor hooks of somebody else around f."""
    with torch.inference_mode(False), private.plain_saved_tensors(), without_autocast(device):
        yield


def own_tensors(
    function: Any,
) -> tuple[dict[str, nn.Parameter], dict[str, Tensor], tuple[bool, ...]]:
    """Parameters, buffers and train/eval flags of an ``nn.Module`` f; nothing for any other."""
    if not isinstance(function, nn.Module):
        return {}, {}, ()
    modes = tuple(m.training for m in function.modules())
    return dict(function.named_parameters()), dict(function.named_buffers()), modes


def call(
    function: Any, x: Tensor, state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> Tensor:
    """f(x) with f's parameters replaced by ``own``, in at least float32, rounded to x's dtype."""
    if isinstance(function, Constraint):
        return function.forward(x, **state)  # it rounds by itself: an open bound stays open
    raw = raised(x)
    if own:
        low = raw.dtype != x.dtype
        mine = {k: raised(v) if low else v for k, v in own.items()}
        y = torch.func.functional_call(function, mine, (raw,))
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
    return y.to(x.dtype)


def state_of(module: nn.Module, name: str, names: tuple[str, ...]) -> dict[str, Tensor]:
    """What a map remembers, kept in buffers ``_{name}_{key}`` of the layer."""
    return {key: module._buffers[state_name(name, key)] for key in names}  # type: ignore[misc]


def describe(function: Any) -> str:
    """A name for messages: ``repr`` of sets, class of modules, qualified name of functions."""
    if isinstance(function, nn.Module):
        return f"{type(function).__name__}()"
    name = getattr(function, "__name__", "")
    if name and getattr(torch, name, None) is function:
        return f"torch.{name}"
    return getattr(function, "__qualname__", None) or repr(function)


def has_right_inverse(function: Any) -> bool:
    return callable(getattr(function, "right_inverse", None))


def preimage(
    function: Any, value: Tensor, where: str, project: bool
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """x and state with f(x) = value, and the value itself, moved onto the set when ``project``."""
    if not has_right_inverse(function):
        raise NoRightInverse(
            f"{where} was given a value, but {describe(function)} has no `right_inverse` that "
            f"would say which x gives it. Write to `{raw_name(where.rsplit('.', 1)[-1])}` instead, "
            "or give the function a method right_inverse(y) -> x."
        )
    with isolated(value.device), torch.no_grad():
        value = value.detach()
        if not isinstance(function, Constraint):
            return _checked_preimage(function, value, where, project)
        function.check_shape(tuple(value.shape))
        inside = bool(torch.as_tensor(function.contains(value)).all())
        # A value of half precision that is on the set to its rounding is judged in its own dtype.
        target = value if inside or not project else function.project(raised(value))
        try:
            found = function.right_inverse(target)
        except ConstraintViolation as error:
            raise ConstraintViolation(f"{where}: {error}") from None
        x, state = found if isinstance(found, tuple) else (found, {})
    return x.to(value.dtype), state, target


def _checked_preimage(
    function: Any, value: Tensor, where: str, project: bool
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """A right inverse without a membership test is tested by f(right_inverse(y)) = y."""
    found = function.right_inverse(raised(value))
    if not isinstance(found, Tensor):
        raise FunctionError(
            f"{describe(function)}.right_inverse returned {type(found).__name__}; expected x, "
            "one tensor."
        )
    x = found.detach().to(value.dtype).contiguous()
    reached = call(function, x, {}, {})
    if reached.shape != value.shape:
        raise ShapeError(
            f"{where}: f(right_inverse(value)) has shape {tuple(reached.shape)} for a value of "
            f"shape {tuple(value.shape)}. Make right_inverse undo f."
        )
    bound = 8 * torch.finfo(value.dtype).eps ** 0.75 * (1 + float(value.abs().max()))
    distance = float((reached - value).abs().max()) if value.numel() else 0.0
    if distance <= bound:
        return x, {}, value
    if not project:
        raise ConstraintViolation(
            f"{where}: f(right_inverse(value)) is {distance:.3g} away from the value, where at "
            f"most {bound:.3g} is rounding: the value is not in the range of {describe(function)}. "
            "Give it a value of the form f(x)."
        )
    return x, {}, reached


def finite_or_raise(function: Any, y: Tensor, where: str) -> None:
    """NaN and infinity are refused at registration, where the start can still be changed."""
    if not bool(torch.isfinite(y).all()):
        bad = int((~torch.isfinite(y)).sum())
        raise FunctionError(
            f"{where}: {describe(function)} gave {bad} of {y.numel()} entries that are NaN or "
            "infinite at the present value of the parameter. Start from a value on which the "
            "function is finite, or write the function so that it is."
        )
