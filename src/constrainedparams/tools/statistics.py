"""How often f ran, how often its derivative, and why."""

from dataclasses import replace
from typing import Any

from torch import nn

from .peek import constrained


def statistics(model: nn.Module) -> dict[str, Any]:
    """Counts of every constrained parameter of ``model`` by its qualified name.

    Each has ``evaluations`` (of f), ``pullbacks`` (of its derivative), ``hits`` (reads answered
    without f) and ``reason`` (why f ran last). The counts are a snapshot.

    Example:
        >>> import torch
        >>> from constrainedparams import Parametrized, statistics
        >>> w = Parametrized(torch.zeros(2), torch.exp)
        >>> for _ in range(10):
        ...     _ = w.y
        >>> statistics(w)["y"].evaluations
        1
    """
    return {name: replace(slot.counts) for name, _, _, slot in constrained(model, "statistics")}
