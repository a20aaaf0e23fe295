"""Register and remove constrained parameters: validate everything, then change."""

import logging
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..core import optimizers, private
from ..core.isolated import isolated
from ..core.slot import Slot
from ..core.tensors import (
    SLOTS,
    Retired,
    Unconstrained,
    function_name,
    guard,
    raw_name,
    state_name,
)
from ..functions.call import (
    differentiable_or_raise,
    finite_or_raise,
    same_values,
    written_to,
)
from ..functions.describe import describe
from ..functions.inverse import has_right_inverse, preimage
from . import validation, verified
from .classes import base_of, generated_class, set_class, slots_of
from .guesses import refuse_no_bool

logger = logging.getLogger("constrainedparams")
Module = TypeVar("Module", bound=nn.Module)


def register_constrained_parameter(
    module: Module, name: str, function: Any, update: str = "auto", *, project: bool = True
) -> Module:
    """Make ``module.name`` the constrained tensor y = f(x), x a free parameter.

    Args:
        module: owner of the parameter.
        name: name of an ``nn.Parameter`` of ``module``, of shape S.
        function: f: a set (:class:`Constraint`), an ``nn.Module`` or a callable from one tensor to
            one tensor of the same dtype and device. With a right inverse (every set; any function
            with a method ``right_inverse``) the present value is kept; otherwise it becomes x.
        update: ``"auto"`` notices changes of x, ``"manual"`` waits for ``y.updated()``,
            ``"verified"`` also compares values; ``"auto"`` becomes this for a subclass of
            ``nn.Parameter``, whose ``.data`` cannot be watched.
        project: move a value that is off the set onto it; ``False`` refuses it.

    Returns:
        ``module``. x is ``module._{name}_unconstrained``, the same ``nn.Parameter`` object as
        before when the shapes agree.

    Raises:
        RegistrationError: nothing can be registered under this name with this function.
        ConstraintViolation: the value is off the set and ``project`` is False.
        FunctionError: f(x) is no tensor, not finite, without a derivative, or of another dtype or
            device.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from constrainedparams import register_constrained_parameter
        >>> layer = register_constrained_parameter(nn.Linear(3, 3), "weight", torch.tanh)
        >>> layer.weight is layer.weight
        True
        >>> bool((layer.weight.abs() < 1).all())
        True
    """
    prepared = prepare(module, name, function, update, project)
    if prepared is not None:
        carry_out(prepared)
    return module


@dataclass(frozen=True)
class Prepared:
    """A registration that was tried and can be carried out."""

    module: nn.Module
    slot: Slot
    parameter: nn.Parameter
    x: Tensor
    state: dict[str, Tensor]


def prepare(
    module: nn.Module,
    name: str,
    function: Any,
    update: str,
    project: bool,
    wrapped: dict[int, str] | None = None,
) -> Prepared | None:
    """Every complaint before any change; None when it is registered already."""
    validation.check_arguments(module, name, function, update)
    refuse_no_bool("project", project)
    present = slots_of(module).get(name)
    if present is not None:
        mode = _possible(update, module._parameters[raw_name(name)])
        validation.same_or_refuse(module, present, function, mode)
        return None
    parameter = validation.parameter_of(module, name, function)
    validation.refuse_wrapped(module, wrapped)
    validation.refuse_convolution(module, name, parameter, function)
    validation.refuse_rescaled(module, name)
    validation.refuse_tied(module, name, parameter)
    # A class may let nobody derive from it.
    generated_class(base_of(module), tuple(sorted({*slots_of(module), name})))
    slot = Slot(name, function, _possible(update, parameter))
    if slot.mode == "verified":
        slot.snapshot = verified.Snapshot
    x, state = _start(module, slot, parameter, project)
    validation.refuse_taken(module, name, function, state)
    return Prepared(module, slot, parameter, x, state)


def _possible(update: str, x: nn.Parameter | None) -> str:
    """Where not every write to x can be seen, its values are compared."""
    unseen = _degraded() or not (x is None or verified.is_watched(x))
    return "verified" if update == "auto" and unseen else update


def _degraded() -> bool:
    """Whether a private name of torch is missing, so that only ``update="verified"`` is right."""
    if private.missing:
        warnings.warn(
            f"torch {version('torch')} lacks {', '.join(private.missing)}, on which automatic "
            'updates lean: constrained parameters fall back to update="verified".',
            stacklevel=4,
        )
    return bool(private.missing)


def _start(
    module: nn.Module, slot: Slot, parameter: nn.Parameter, project: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """x and map state; f is tried there before anything is written."""
    where = slot.where(module)
    state: dict[str, Tensor] = {}
    x: Tensor = parameter
    if has_right_inverse(slot.function):
        with isolated(parameter.device, False):
            x, state, target = preimage(slot.function, parameter, where, project)
        slot.moved = _distance(parameter.detach(), target)
        validation.warn_of_padding(module, slot.name, parameter.detach(), target)
    before = parameter.detach().clone() if x is parameter else None
    y = slot.attempt(module, x, state)
    if before is not None and not same_values(before, parameter):
        with torch.no_grad():
            parameter.copy_(before)
        raise written_to(slot.function, where)
    finite_or_raise(slot.function, y, where)
    if parameter.requires_grad:
        differentiable_or_raise(slot.function, y, where)
    slot.state_names = tuple(state)
    slot.shape = tuple(y.shape)
    return x, state


def _distance(value: Tensor, target: Tensor) -> tuple[float, float]:
    """How far registration moved the value: Frobenius norm, and that in percent of the value."""
    gap = float(torch.linalg.vector_norm(target - value.to(target.dtype)))
    size = float(torch.linalg.vector_norm(value.to(target.dtype)))
    return gap, 100 * gap / size if size else float("inf") if gap else 0.0


def carry_out(prepared: Prepared, where: str = "") -> None:
    """Nothing in here can fail on account of what the user gave; ``where`` is for the log."""
    module, slot, parameter, x = prepared.module, prepared.slot, prepared.parameter, prepared.x
    name, where = slot.name, where or slot.where(module)
    if slot.moved and slot.moved[0]:
        size = "%s was moved by %.3g (%.3g %%) onto %s"
        logger.info(size, where, *slot.moved, describe(slot.function))
    raw = parameter
    if x.shape == parameter.shape:
        guard(parameter)
        if x is not parameter:
            with torch.no_grad():
                parameter.copy_(x)
        parameter.grad = None
    else:
        raw = nn.Parameter(_lasting(x), requires_grad=parameter.requires_grad)
        guard(raw)
        retire(parameter, where)
    rename(module, name, raw_name(name), raw)
    for key, tensor in prepared.state.items():
        module.register_buffer(state_name(name, key), _lasting(tensor))
    if isinstance(slot.function, nn.Module):
        module._modules[function_name(name)] = slot.function
        for own in slot.function.parameters():
            guard(own)
    module.__dict__.setdefault(SLOTS, {})[name] = slot
    set_class(module)
    optimizers.install()
    if slot.record is not None:
        optimizers.follow(slot)
    if slot.mode == "verified":
        verified.install(slot)


def _lasting(tensor: Tensor) -> Tensor:
    """A copy that can be trained with, also where inference mode is on at registration."""
    with torch.inference_mode(False), torch.no_grad():
        return tensor.clone()


def retire(parameter: nn.Parameter, where: str) -> None:
    """An optimiser that still holds ``parameter`` raises at its next step."""
    if type(parameter) is nn.Parameter:
        parameter.__class__ = Retired
        parameter._replaced = where  # type: ignore[attr-defined]


def unguard(x: nn.Parameter) -> None:
    """Make ``x`` a plain ``nn.Parameter`` again."""
    if type(x) is Unconstrained:
        x.__class__ = nn.Parameter  # type: ignore[assignment]


def rename(module: nn.Module, old: str, new: str, parameter: nn.Parameter) -> None:
    """Replace an entry of ``_parameters`` in place: the order of parameters is kept."""
    entries = [(new, parameter) if k == old else (k, v) for k, v in module._parameters.items()]
    module._parameters.clear()
    module._parameters.update(entries)
