"""Back to plain parameters."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from ..attach.classes import set_class
from ..attach.registration import rename, unguard
from ..attach.tie import shared as is_shared
from ..attach.validation import refuse_wrapped
from ..core.tensors import SLOTS, function_name, raw_name, state_name
from ..errors import PendingGradients, RegistrationError
from .queries import slot_of

Module = TypeVar("Module", bound=nn.Module)


def remove_constrained_parameter(module: Module, name: str, keep: str = "constrained") -> Module:
    """Make ``module.name`` a plain ``nn.Parameter`` again.

    Args:
        module: a module with a constrained parameter.
        name: its name.
        keep: ``"constrained"`` for the value y, ``"unconstrained"`` for x.

    Returns:
        ``module``, with its original class after the last removal.

    Raises:
        RegistrationError: nothing is constrained under this name, or a wrapper sits on top.
        PendingGradients: ``deferred_pullback`` holds sums for it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from constrainedparams import register_constrained_parameter
        >>> from constrainedparams import remove_constrained_parameter
        >>> layer = register_constrained_parameter(nn.Linear(2, 2), "weight", torch.tanh)
        >>> type(remove_constrained_parameter(layer, "weight").weight).__name__
        'Parameter'
    """
    if keep not in ("constrained", "unconstrained"):
        raise RegistrationError(
            f'keep={keep!r}: expected "constrained" (the value y) or "unconstrained" (x).'
        )
    slot = slot_of(module, name)
    refuse_wrapped(module)
    if slot.pending():
        raise PendingGradients(
            f"`{name}` has gradients collected by deferred_pullback pending; run the last backward "
            "outside the block or call `discard()` before removing it."
        )
    with torch.no_grad():
        value = getattr(module, name).detach().clone()
    x = module._parameters[raw_name(name)]
    assert x is not None
    kept = value if keep == "constrained" else x.detach()
    plain = _plain_parameter(x, kept, shared=is_shared(slot))
    slot.drop("removed")
    for key in slot.state_names:
        del module._buffers[state_name(name, key)]
        module._non_persistent_buffers_set.discard(state_name(name, key))
    module._modules.pop(function_name(name), None)
    rename(module, raw_name(name), name, plain)
    del module.__dict__[SLOTS][name]
    if not module.__dict__[SLOTS]:
        del module.__dict__[SLOTS]
    set_class(module)
    return module


def _plain_parameter(x: nn.Parameter, value: Tensor, shared: bool) -> nn.Parameter:
    """x itself with ``value`` when the shapes agree, so that an optimiser keeps working.

    A shared x stays with the other modules.
    """
    if x.shape != value.shape or shared:
        with torch.inference_mode(False):  # it outlives the block that removes it
            return nn.Parameter(value.clone(), requires_grad=x.requires_grad)
    with torch.no_grad():
        x.copy_(value)
    x.grad = None
    unguard(x)
    return x
