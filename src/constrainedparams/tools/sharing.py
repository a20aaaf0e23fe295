"""Tied weights: one x and one f for several modules."""

from typing import TypeVar

from torch import nn

from ..attach.classes import set_class, slots_of
from ..attach.guesses import kind, refuse_no_module
from ..attach.registration import rename, retire
from ..attach.tie import Tie, held
from ..attach.validation import parameter_of, refuse_taken, refuse_wrapped
from ..core.slot import Slot
from ..core.tensors import SLOTS, function_name, raw_name, state_name
from ..errors import RegistrationError, ShapeError
from .queries import slot_of

Module = TypeVar("Module", bound=nn.Module)


def share_constrained_parameter(
    source: nn.Module, name: str, target: Module, target_name: str | None = None
) -> Module:
    """Make ``target.target_name`` the constrained tensor ``source.name``: one x, one f, one y.

    The parameter that ``target`` had is given up, as with tied weights of torch; both modules list
    the one x among their parameters (``parameters()`` of both together gives it once) and save it.
    Moving, casting, loading and copying them together keeps them tied; a copy of one of them alone
    is independent. Removal unties one module and gives it a parameter of its own.

    Args:
        source: a module with a constrained parameter.
        name: its name.
        target: another module, or the same one.
        target_name: an ``nn.Parameter`` of ``target`` in the shape, dtype and device of
            ``source.name``; ``name`` when left out.

    Returns:
        ``target``.

    Raises:
        RegistrationError: ``source.name`` is not constrained; ``target`` has no such parameter, or
            it is constrained already, or uses a name that x or map state needs; a wrapper sits
            on top.
        ShapeError: the two shapes differ.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from constrainedparams import Sphere, register_constrained_parameter
        >>> from constrainedparams import share_constrained_parameter
        >>> words, scores = nn.Embedding(7, 3), nn.Linear(3, 7)
        >>> _ = register_constrained_parameter(words, "weight", Sphere())
        >>> _ = share_constrained_parameter(words, "weight", scores)
        >>> scores.weight is words.weight
        True
    """
    slot = slot_of(source, name)
    refuse_no_module(target, "share_constrained_parameter, as its target,")
    target_name = name if target_name is None else target_name
    if slots_of(target).get(target_name) is slot:
        return target
    if target_name in slots_of(target):
        raise RegistrationError(
            f"{slots_of(target)[target_name].where(target)} is already constrained. Call "
            f"`remove_constrained_parameter(target, {target_name!r})` before sharing."
        )
    x, where = source._parameters[raw_name(name)], f"{kind(target)}.{target_name}"
    assert x is not None
    parameter = parameter_of(target, target_name)
    if parameter is not x:
        _refuse_unlike(parameter, x, slot, where, slot.where(source))
    refuse_wrapped(target)
    refuse_taken(target, target_name, slot.function, slot.state_names)
    if parameter is not x:
        retire(parameter, where)
    rename(target, target_name, raw_name(target_name), x)
    for key, (place, at) in held(source, slot).items():
        if key != "x":
            target._buffers[state_name(target_name, key)] = place[at]
    if isinstance(slot.function, nn.Module):
        target._modules[function_name(target_name)] = slot.function_of(source)
    slot.tie = slot.tie or Tie()
    slot.tie.holders.update((source, target))
    target.__dict__.setdefault(SLOTS, {})[target_name] = slot
    set_class(target)
    return target


def _refuse_unlike(
    parameter: nn.Parameter, x: nn.Parameter, slot: Slot, where: str, origin: str
) -> None:
    if tuple(parameter.shape) != slot.shape:
        raise ShapeError(
            f"{where} has shape {tuple(parameter.shape)}; {origin} has shape {slot.shape}. Share "
            "between parameters of one shape; to use one transposed, read it in forward: "
            "`F.linear(z, encoder.weight.mT)`."
        )
    if (parameter.dtype, parameter.device) != (x.dtype, x.device):
        raise RegistrationError(
            f"{where} is {parameter.dtype} on {parameter.device}; {origin} is {x.dtype} on "
            f"{x.device}. Move one of the modules before sharing."
        )
