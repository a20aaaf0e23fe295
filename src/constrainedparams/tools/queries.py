"""What is constrained, by what, and the word that x was changed unseen."""

from typing import Any

from torch import nn

from ..core.classes import slots_of
from ..core.registration import nearest
from ..core.slot import Slot
from ..errors import RegistrationError


def is_constrained(module: nn.Module, name: str | None = None) -> bool:
    """Whether ``module.name`` is constrained; without a name, anything in the whole tree.

    Example:
        >>> import torch
        >>> from constrainedparams import Parametrized, is_constrained
        >>> is_constrained(Parametrized(torch.zeros(2), torch.exp), "y")
        True
    """
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
    return _slot(module, name).function


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
        _slot(module, name)
    for part in module.modules() if name is None else (module,):
        for slot in slots_of(part).values():
            if name in (None, slot.name):
                slot.expire(part)


def _slot(module: nn.Module, name: str) -> Slot:
    slots = slots_of(module)
    if name not in slots:
        raise RegistrationError(
            f"{type(module).__name__}.{name} is not constrained; constrained here: "
            f"{', '.join(slots) or 'nothing'}." + nearest(name, slots)
        )
    return slots[name]
