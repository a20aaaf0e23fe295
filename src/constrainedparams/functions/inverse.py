"""From a value of y to the x that gives it."""

from typing import Any

import torch
from torch import Tensor

from ..errors import ConstraintError, ConstraintViolation, FunctionError, NoRightInverse, ShapeError
from ..sets.contract import Constraint, raised
from .call import call
from .describe import describe


def has_right_inverse(function: Any) -> bool:
    return callable(getattr(function, "right_inverse", None))


def preimage(
    function: Any, value: Tensor, where: str, project: bool
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """x and state with f(x) = value, and the value itself, moved onto the set when ``project``."""
    if not has_right_inverse(function):
        raise NoRightInverse(
            f"{where} was given a value, but {describe(function)} has no `right_inverse` that "
            f"would say which x gives it. Write to `_{where.rsplit('.', 1)[-1]}_unconstrained` "
            "instead, or give the function a method right_inverse(y) -> x."
        )
    value = value.detach()
    if value.layout != torch.strided:
        raise ConstraintError(
            f"{where}: the value has the layout {value.layout}; expected a dense tensor. Give it "
            "`value.to_dense()`."
        )
    if not isinstance(function, Constraint):
        return _checked_preimage(function, value, where, project)
    function.check_shape(tuple(value.shape))
    inside = bool(torch.as_tensor(function.contains(value), device=value.device).all())
    # A value of half precision that is on the set to its rounding is judged in its own dtype.
    target = value if inside or not project else function.project(raised(value))
    try:
        found = function.right_inverse(target)
    except ConstraintViolation as error:
        if target is not value and not bool(function.contains(target).all()):
            gap = float(function.residual(target).max())
            raise ConstraintViolation(
                f"{where}: the nearest point found of {function!r} is itself {gap:.3g} away from "
                f"it in {target.dtype}, for whose numbers its bounds leave no room. Take bounds "
                "that are further apart, or a longer dtype, for example by `.double()`."
            ) from None
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
    reached = call(function, x, {})
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
