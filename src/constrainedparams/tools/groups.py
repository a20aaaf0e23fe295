"""Groups for an optimiser: constrained parameters apart from the others."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..attach.classes import slots_of
from ..attach.guesses import refuse_no_module
from ..core.tensors import raw_name
from ..errors import RegistrationError


def parameter_groups(
    model: nn.Module, constrained: Mapping[str, Any] | None = None, **rest: Any
) -> list[dict[str, Any]]:
    """The parameters of ``model`` for an optimiser: what is constrained, then the rest.

    Weight decay on x pulls y to f(0) (``summary`` shows where that is), not to 0, so it is off for
    constrained parameters unless ``constrained`` has one. An option that a group does not have is
    the optimiser's own. Every parameter is in one group, once, frozen ones too; parameters of an
    ``nn.Module`` f are ordinary weights and belong to the rest. A group without parameters is left
    out.

    Args:
        model: any module; the tree below it is searched.
        constrained: options for the constrained parameters (their x), such as ``{"lr": 1e-3}``.
        rest: options for all others.

    Returns:
        A list of groups. Their ``"params"`` are pairs (name, parameter) as of
        ``model.named_parameters()``; the optimiser keeps the names in its state dict.

    Raises:
        RegistrationError: options that are no dict, or that name parameters themselves.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from constrainedparams import Orthogonal, parameter_groups
        >>> from constrainedparams import register_constrained_parameter
        >>> layer = register_constrained_parameter(nn.Linear(3, 3), "weight", Orthogonal())
        >>> groups = parameter_groups(layer, {"lr": 1e-2}, weight_decay=0.1)
        >>> optimizer = torch.optim.AdamW(groups, lr=1e-3)
        >>> [(g["param_names"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
        [(['_weight_unconstrained'], 0.01, 0.0), (['bias'], 0.001, 0.1)]

        Smaller steps for earlier layers, as in fine-tuning:

        >>> model = nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 2))
        >>> groups = []
        >>> for depth, block in enumerate(reversed(model)):
        ...     lr = 1e-3 * 0.5**depth
        ...     groups += parameter_groups(block, {"lr": lr}, lr=lr, weight_decay=0.1)
        >>> [g["lr"] for g in torch.optim.AdamW(groups).param_groups]
        [0.001, 0.00025, 0.00025]
    """
    refuse_no_module(model, "parameter_groups")
    options = {"weight_decay": 0.0, **_checked(constrained if constrained is not None else {})}
    kept = {
        id(module._parameters[raw_name(name)])
        for module in model.modules()
        for name in slots_of(module)
    }
    named = list(model.named_parameters())
    groups = [
        {"params": [(name, p) for name, p in named if id(p) in kept], **options},
        {"params": [(name, p) for name, p in named if id(p) not in kept], **_checked(rest)},
    ]
    return [group for group in groups if group["params"]]


def _checked(options: Any) -> Mapping[str, Any]:
    if not isinstance(options, Mapping) or "params" in options:
        raise RegistrationError(
            f"options of a group are {options!r}; expected a dict such as "
            '{"lr": 1e-3, "weight_decay": 0.0}, without "params": those are what this finds.'
        )
    return options
