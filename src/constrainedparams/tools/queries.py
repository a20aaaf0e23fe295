"""What is constrained, by what, and the word that x was changed unseen."""

from typing import Any

from torch import nn

from ..attach.classes import slots_of
from ..attach.guesses import kind, nearest, refuse_no_module
from ..core.slot import Slot
from ..errors import RegistrationError


def is_constrained(module: nn.Module, name: str | None = None) -> bool:
    """Whether ``module.name`` is constrained; without a name, anything in the whole tree.

    Raises:
        RegistrationError: ``module`` is no module, or ``name`` that of a tensor below it.

    Example:
        >>> import torch
        >>> from constrainedparams import Parametrized, is_constrained
        >>> is_constrained(Parametrized(torch.zeros(2), torch.exp), "y")
        True
    """
    refuse_no_module(module, "is_constrained")
    if name is not None and "." in name:
        below, _, own = name.rpartition(".")
        raise RegistrationError(
            f"{name!r} is no name in {kind(module)} itself; expected one without a dot. Write "
            f'`is_constrained(model.get_submodule("{below}"), "{own}")`.'
        )
    if name is not None:
        return name in slots_of(module)
    return any(slots_of(m) for m in module.modules())


def constraint_of(module: nn.Module, name: str) -> Any:
    """The set or function of ``module.name``.

    Raises:
        RegistrationError: nothing is constrained under this name.

    Example:
        >>> import torch
        >>> from constrainedparams import NonNegative, Parametrized, constraint_of
        >>> constraint_of(Parametrized(torch.ones(2), NonNegative()), "y")
        NonNegative()
    """
    return slot_of(module, name).function


def updated(module: nn.Module, name: str | None = None) -> None:
    """Say that x was changed behind Python's back: f runs again at the next read.

    Without a name, for every constrained parameter in the tree.

    Raises:
        RegistrationError: nothing is constrained under this name.

    Example:
        >>> import torch
        >>> from constrainedparams import Parametrized, updated
        >>> w = Parametrized(torch.zeros(2), torch.exp)
        >>> w.x.detach().numpy()[:] = 1  # NumPy's writes cannot be seen
        >>> updated(w, "y")
        >>> w.y.tolist() == torch.exp(torch.ones(2)).tolist()
        True
    """
    if name is not None:
        slot_of(module, name).expire(module)
        return
    refuse_no_module(module, "updated")
    for part in module.modules():
        for slot in slots_of(part).values():
            slot.expire(part)


def slot_of(module: nn.Module, name: str) -> Slot:
    """The slot of ``module.name``, or the error that says what is constrained instead."""
    refuse_no_module(module, f"a call about {name!r}")
    slots = slots_of(module)
    if name in slots:
        return slots[name]
    known = ", ".join(slots) or "nothing"
    if not slots and is_constrained(module):
        known += " (below it there are some: name their module, before anything wraps it)"
    raise RegistrationError(
        f"{kind(module)}.{name} is not constrained; constrained here: {known}."
        + nearest(str(name), slots)
    )
