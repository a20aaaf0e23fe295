"""The plain model with the constrained values in it."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..attach.guesses import refuse_no_bool
from ..attach.registration import retire, unguard
from ..attach.validation import refuse_wrapped
from ..core.slot import Slot
from ..core.tensors import raw_name
from ..errors import PendingGradients
from ..sets.contract import Constraint
from .peek import constrained, peek
from .queries import slot_of
from .removal import remove_constrained_parameter
from .temporary import temporarily

Module = TypeVar("Module", bound=nn.Module)


def bake(model: Module, inplace: bool = False) -> Module:
    """``model`` with plain parameters that hold the constrained values, and its original classes.

    Its state dict is that of the unconstrained model. Tied parameters stay tied, frozen ones
    frozen, and its outputs are those of ``model``.

    Args:
        model: any module; the tree below it is searched.
        inplace: change ``model`` itself, one parameter at a time, in place of a copy. An optimiser
            keeps its parameters (its momentum was that of x), but for those where x is tied or has
            another shape than y. Where f raises half way, what came before it is baked.

    Returns:
        The copy, or ``model``. The model that was copied stays constrained.

    Raises:
        RegistrationError: ``model`` is no module, or inside DDP, FSDP or ``torch.compile``.
        PendingGradients: ``deferred_pullback`` holds sums for one of the parameters.
        ConstraintViolation: somebody wrote a value into y that is not on the set.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from constrainedparams import Orthogonal, bake, register_constrained_parameter
        >>> layer = register_constrained_parameter(nn.Linear(3, 3), "weight", Orthogonal())
        >>> plain = bake(layer)
        >>> type(plain).__name__, list(plain.state_dict()), torch.equal(plain.weight, layer.weight)
        ('Linear', ['weight', 'bias'], True)
        >>> nn.Linear(3, 3).load_state_dict(plain.state_dict())
        <All keys matched successfully>
    """
    refuse_no_bool("inplace", inplace)
    places = list(constrained(model, "bake"))
    for qualified, module, _, slot in places:
        if slot.pending():
            raise PendingGradients(
                f"`{qualified}` has gradients collected by deferred_pullback pending. Run the last "
                "backward outside the block, or call `discard()`, before baking."
            )
        if inplace:
            refuse_wrapped(module)
        slot.settle(module)
    result = model if inplace else copy.deepcopy(model)
    tied: dict[Slot, list[tuple[nn.Module, str]]] = {}
    for (_, module, name, slot), (_, part, own, _) in zip(
        places, list(constrained(result, "bake")), strict=True
    ):
        # The value has no name here: it must be gone when the next one is computed.
        _make_plain(part, own, _value(module, name, slot))
        tied.setdefault(slot, []).append((part, own))
        for other, its in tied[slot]:
            other._parameters[its] = part._parameters[own]
    return result


def _make_plain(module: nn.Module, name: str, value: Tensor) -> None:
    """A parameter that holds ``value``, without f running again."""
    x, shared = module._parameters[raw_name(name)], slot_of(module, name).tie is not None
    where = slot_of(module, name).where(module)
    with temporarily(module, name, value):
        remove_constrained_parameter(module, name)
    if x is not None and x is not module._parameters[name] and not shared:
        unguard(x)
        retire(x, where)


def _value(module: nn.Module, name: str, slot: Slot) -> Tensor:
    """y, where ``module`` and its copy would differ as ``module`` has it: f may be random."""
    if isinstance(slot.function, Constraint):
        return peek(module, name)
    with torch.no_grad():
        return getattr(module, name).detach()
