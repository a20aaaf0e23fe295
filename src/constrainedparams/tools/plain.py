"""The state dict of the unconstrained model."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ..attach.checkpoints import METADATA
from ..attach.classes import slots_of
from ..attach.guesses import refuse_no_module
from ..core.tensors import function_name, raw_name, state_name


def plain_state_dict(model: nn.Module) -> "OrderedDict[str, Tensor]":
    """What ``model`` would save without its constraints: y under its plain name.

    The unconstrained model loads it with ``strict=True``; so does the constrained one, through the
    right inverse. Keys come in the order of the unconstrained model. Each y is a copy, all else are
    the tensors of ``state_dict()``.

    Args:
        model: any module; the tree below it is searched.

    Raises:
        ConstraintViolation: somebody wrote a value into y that is not on the set.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from constrainedparams import Parametrized, Positive, plain_state_dict
        >>> list(plain_state_dict(nn.Sequential(Parametrized(torch.ones(2), Positive()))))
        ['0.y']
    """
    refuse_no_module(model, "plain_state_dict")
    found = model.state_dict()
    renamed: dict[str, tuple[str, Tensor]] = {}
    state: set[str] = set()
    functions: tuple[str, ...] = ()
    for prefix, module in model.named_modules(remove_duplicate=False):
        path = f"{prefix}." if prefix else ""
        for name, slot in slots_of(module).items():
            with torch.no_grad():
                y = getattr(module, name).detach().clone()
            renamed[path + raw_name(name)] = path + name, y
            state |= {path + state_name(name, key) for key in slot.state_names}
            functions += (path + function_name(name) + ".",)
    plain: OrderedDict[str, Tensor] = OrderedDict()
    for key, tensor in found.items():
        if key not in state and not key.startswith(functions):
            new, value = renamed.get(key, (key, tensor))
            plain[new] = value
    metadata = {
        key: {k: v for k, v in local.items() if k != METADATA}
        for key, local in getattr(found, "_metadata", {}).items()
        if not f"{key}.".startswith(functions)
    }
    plain._metadata = metadata  # type: ignore[attr-defined]
    return plain
