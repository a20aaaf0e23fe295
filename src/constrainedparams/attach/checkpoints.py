"""What a constrained module saves, loads and casts."""

from typing import Any

import torch
from torch import Tensor, nn

from ..core import private, writes
from ..core.slot import Slot
from ..core.tensors import function_name, raw_name, state_name
from ..errors import ConstraintError
from ..functions.describe import describe
from ..sets.contract import Constraint, compute_dtype

METADATA = "constrained_parameters"


def sign(slots: dict[str, Slot], destination: Any, prefix: str) -> None:
    """Write which map every x belongs to beside the version number that torch keeps there."""
    metadata = getattr(destination, "_metadata", None)
    if metadata is not None:  # a plain dict given as ``destination`` holds none
        local = metadata.setdefault(prefix[:-1], {})
        local[METADATA] = {name: describe(slot.function) for name, slot in slots.items()}


def translate(
    module: nn.Module, slot: Slot, entries: dict[str, Any], prefix: str, metadata: dict[str, Any]
) -> None:
    """Make ``entries`` hold x and map state of ``slot``; they may hold y under its plain name."""
    name = slot.name_in(module)
    plain, raw = prefix + name, prefix + raw_name(name)
    if plain not in entries:
        if raw in entries:
            _same_map(module, slot, metadata.get(METADATA, {}).get(name))
        return
    if raw in entries:
        raise ConstraintError(
            f"{slot.where(module)}: the checkpoint has both `{plain}` (the constrained value) and "
            f"`{raw}` (the unconstrained one), and nothing tells which is meant. Delete one of "
            "them from the checkpoint."
        )
    x = module._parameters[raw_name(name)]
    value = entries[plain]
    if isinstance(value, Tensor) and x is not None and not metadata.get("assign_to_params_buffers"):
        value = value.detach().to(device=x.device, dtype=x.dtype)
    new_x, state = writes.inverse(slot, module, value)
    del entries[plain]
    entries[raw] = new_x
    entries.update({prefix + state_name(name, key): t for key, t in state.items()})
    if isinstance(function := slot.function_of(module), nn.Module):  # its parameters stay
        own = f"{prefix}{function_name(name)}."
        for key, tensor in function.state_dict(prefix=own).items():
            entries.setdefault(key, tensor)


def _same_map(module: nn.Module, slot: Slot, saved: str | None) -> None:
    """x of one map means nothing to another."""
    present = describe(slot.function)
    if saved is None or saved == present or not (_says_what(saved) and _says_what(present)):
        return
    raise ConstraintError(
        f"{slot.where(module)}: the checkpoint holds x for {saved}; here y = f(x) is {present}. "
        f"Register {saved} before loading, or save `plain_state_dict(model)`, which holds y. To "
        "load x all the same, give `dict(checkpoint)`, which has no record of the map."
    )


def _says_what(name: str) -> bool:
    """Lambdas and local functions have names that say where they were written, not what they do."""
    return "<" not in name


def keep_wide(module: Any, slot: Slot, before: dict[str, Tensor]) -> None:
    """Map state stays in at least float32: a base rounded to bfloat16 has left the set."""
    for key, old in before.items():
        name = state_name(slot.name_in(module), key)
        new = module._buffers[name]
        if new.dtype != old.dtype:
            module._buffers[name] = old.to(device=new.device, dtype=compute_dtype(new.dtype))


def mend(module: Any, slot: Slot) -> None:
    """A base point that was cast, loaded or averaged is put back on the set that it left."""
    if "base" not in slot.state_names:
        return
    known = slot.companions
    if known is not None and known.sound and known.same():
        return
    base = module._buffers[state_name(slot.name_in(module), "base")]
    if base.is_meta or private.transforming(base) or not slot.known(module).steady:
        return
    constraint: Constraint = slot.function
    with torch.no_grad():
        if not bool(constraint.contains(base).all()):
            base.copy_(constraint.project(base))
    slot.watched(module, slot.known(module)).sound = True
