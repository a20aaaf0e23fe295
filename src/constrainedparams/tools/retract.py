"""Better coordinates for the same values."""

import torch
from torch import nn

from ..core import writes
from ..core.isolated import isolated
from ..core.slot import Slot
from ..core.tensors import raw_name
from ..errors import ConstraintViolation, PendingGradients
from ..sets.contract import Constraint
from .peek import constrained, peek


def retract(model: nn.Module) -> None:
    """Change x and map state of every set in ``model`` so that no y changes, to rounding.

    Exponentials and Cayley maps take the present y as their base, with x = 0; reflectors take the
    signs with which they are short; spheres and polar coordinates get back their length. Far from
    its base a map turns y by less and less, and not evenly: in long trainings call this now and
    then, after ``optimizer.step()`` and before the next forward. Weight decay then pulls y to where
    it was at the last call (reflectors: to the identity with these signs).

    x stays the same parameter, and the state of an optimiser what it was: momentum gathered in the
    old coordinates goes on in the new ones. f runs again at the next read. Sets without anything to
    change, and functions that are no set, are left alone.

    Args:
        model: any module; the tree below it is searched.

    Raises:
        RegistrationError: ``model`` is no module.
        PendingGradients: ``deferred_pullback`` holds sums for one of the parameters: those belong
            to the old coordinates. Nothing was changed.
        ConstraintViolation: somebody wrote a value into y that is not on the set, or x is not
            finite. What came before it in the tree has new coordinates, and the same y.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from constrainedparams import Orthogonal, register_constrained_parameter, retract
        >>> layer = register_constrained_parameter(nn.Linear(3, 3), "weight", Orthogonal())
        >>> with torch.no_grad():
        ...     _ = layer._weight_unconstrained.normal_()
        >>> before = layer.weight.detach().clone()
        >>> retract(layer)
        >>> layer._weight_unconstrained.norm().item()
        0.0
        >>> torch.allclose(layer.weight, before, atol=1e-6)
        True
    """
    places = {slot: (name, module) for name, module, _, slot in constrained(model, "retract")}
    for slot, (name, _) in places.items():
        if slot.pending():
            raise PendingGradients(
                f"`{name}` has gradients collected by deferred_pullback pending, which belong to "
                "the present coordinates. Run the last backward outside the block, and the step, "
                "or call `discard()`, before retracting."
            )
    for slot, (name, module) in places.items():
        slot.settle(module)
        if isinstance(slot.function, Constraint):
            _retract(slot.function, slot, module, name)


def _retract(function: Constraint, slot: Slot, module: nn.Module, name: str) -> None:
    x = slot.whole(module, getattr(module, raw_name(slot.name_in(module))))
    if x.is_meta:
        return
    y = peek(module, slot.name_in(module))
    if not bool(torch.isfinite(y).all()):
        raise ConstraintViolation(
            f"`{name}` has no better coordinates: {int((~torch.isfinite(y)).sum())} of {y.numel()} "
            "entries are NaN or infinite. Load the last good checkpoint, or assign a value that is "
            "on the set."
        )
    state = slot.state_in(module)
    with isolated(x.device, False):
        new_x, after = function.retract(x, **state)
    if torch.equal(new_x, x) and all(torch.equal(after[key], state[key]) for key in state):
        return
    slot.drop("retracted")
    writes.write(module, slot, x, new_x, after)
