"""Writes to y: noticed at the next use, carried to x when the value is on the set."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConstraintError, ConstraintViolation, NoRightInverse, ShapeError
from ..functions.inverse import preimage
from .isolated import isolated
from .key import versioned
from .tensors import raw_name, state_of


def settle(slot: Any, module: nn.Module, told: bool = False) -> None:
    """Carry a write into y to x, or say why not; the next read gives the last good value."""
    where, name = slot.where(module), slot.name_in(module)
    for held, version in slot.former:
        y = held()
        if y is not None and y._version != version:
            slot.former = tuple([pair for pair in slot.former if pair[0] is not held])
            raise ConstraintViolation(
                f"{where}: somebody wrote into a tensor that was read from it before x changed. "
                f"The write is ignored. Write to the present value: `module.{name} = value`."
            )
    record = slot.record
    if record is None or not record.written():
        return
    x, y = getattr(module, raw_name(name)), record.y()
    in_graph = y.grad_fn is not record.node
    both = told or not versioned(x) or not record.same(x)
    value = y.detach().clone()
    slot.drop("y was written in place")
    if in_graph:
        _stand(slot, module, record)
        raise ConstraintError(
            f"{where} was modified in place with grad mode on: it would no longer be f(x). Use an "
            f"out-of-place operation, or `with torch.no_grad():` to set a new value. The last good "
            "value is kept."
        )
    if both:
        raise ConstraintViolation(
            f"{where}: both the constrained tensor and `{raw_name(name)}` were written since it "
            "was last read, and nothing tells which came last. The value of x is kept. Write to "
            "one of them."
        )
    try:
        assign(slot, module, value)
    except (ConstraintViolation, NoRightInverse) as error:
        _stand(slot, module, record)
        raise type(error)(
            f"{error} (The value was written in place; the last good value is kept.)"
        ) from None


def _stand(slot: Any, module: nn.Module, record: Any) -> None:
    """A refused write leaves the last value standing; where it was not kept f gives it again."""
    if record.value is not None:
        slot.restore(module, record)
        slot.record = record


def replace(slot: Any, module: nn.Module, value: Any) -> None:
    """An assignment. It supersedes a write into y; a refused one leaves that standing."""
    try:
        assign(slot, module, value)
    except ConstraintError:
        with suppress(ConstraintError):
            settle(slot, module)
        raise


def assign(slot: Any, module: nn.Module, value: Any) -> None:
    """module.name = value: x becomes the right inverse of the value. Validates before it writes."""
    where = slot.where(module)
    if slot.override:
        raise ConstraintError(
            f"{where} is set by `temporarily` now; assign to it after the block has ended."
        )
    if not isinstance(value, Tensor):
        raise ConstraintError(
            f"{where} = {type(value).__name__}: expected a tensor. Wrap it: `torch.as_tensor(...)`."
            " To remove the constraint use `remove_constrained_parameter`."
        )
    x = module._parameters[raw_name(slot.name_in(module))]
    assert x is not None
    new_x, state = inverse(slot, module, value.detach().to(device=x.device, dtype=x.dtype))
    slot.drop("assignment")
    write(module, slot, x, new_x, state)


def inverse(slot: Any, module: nn.Module, value: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """x and map state of a value that is on the set and has the shapes of this parameter."""
    where, expected = slot.where(module), slot.shape
    if tuple(value.shape) != expected:
        raise ShapeError(
            f"{where} has shape {expected}; the value has shape {tuple(value.shape)}. Assign a "
            f"tensor of shape {expected}."
        )
    with isolated(value.device, False):
        new_x, state, _ = preimage(slot.function_of(module), value, where, project=False)
    x = module._parameters[raw_name(slot.name_in(module))]
    if x is not None and new_x.shape != x.shape:
        raise ShapeError(
            f"{where}: right_inverse gave x of shape {tuple(new_x.shape)}; x has shape "
            f"{tuple(x.shape)}. Make right_inverse return the shape that f was registered with."
        )
    return new_x, state


def write(module: nn.Module, slot: Any, x: Tensor, new_x: Tensor, state: dict[str, Tensor]) -> None:
    """copy_, never set_: optimisers and reducers keep hold of the tensors."""
    held = state_of(module, slot.name_in(module), tuple(state))
    with torch.inference_mode():  # in which tensors of both kinds may be written to, and tell
        x.copy_(new_x)
        for key, tensor in state.items():
            held[key].copy_(tensor)
