"""``torch.compile`` with f outside the graph."""

from typing import Any

import torch
from torch import nn

from ..attach.classes import slots_of
from ..attach.guesses import refuse_no_module
from ..core.slot import Slot


def compile(model: nn.Module, **options: Any) -> nn.Module:  # noqa: A001  (the name of torch's)
    """``torch.compile(model)``, with each y an input of the compiled graph.

    Under plain ``torch.compile`` f is a part of the graph and runs once per call. Here f runs
    outside, once per change of x: micro-batches and evaluation share it, and ``deferred_pullback``
    works. With ``mode="reduce-overhead"`` all of the model goes into CUDA graphs, also where a map
    waits for values, which no CUDA graph can have inside.

    Args:
        model: the model, with its constrained parameters registered.
        options: those of ``torch.compile``.

    Returns:
        What ``torch.compile`` returns: a module with everything that ``model`` has.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import constrainedparams
        >>> layer = constrainedparams.Parametrized(torch.zeros(3), torch.exp)
        >>> fast = constrainedparams.compile(layer, backend="eager")
        >>> fast().sum().item(), fast().sum().item()
        (3.0, 3.0)
        >>> constrainedparams.statistics(layer)["y"].evaluations
        1
    """
    refuse_no_module(model, "compile")
    compiled: Any = torch.compile(model, **options)
    outside: list[list[Slot]] = []

    def enter(*_: Any) -> None:
        found: list[Slot] = []
        outside.append(found)
        for module in model.modules():
            for name, slot in slots_of(module).items():
                if not slot.override:  # a value of `temporarily` stays; a shared y is read once
                    slot.override += (getattr(module, name),)
                    found.append(slot)

    def leave(*_: Any) -> None:
        for slot in outside.pop() if outside else ():
            slot.override = slot.override[:-1]

    compiled.register_forward_pre_hook(enter)
    compiled.register_forward_hook(leave, always_call=True)
    return compiled
