"""One table of all that is constrained in a model."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..attach.classes import slots_of
from ..core.slot import Slot
from ..core.tensors import raw_name
from ..sets.contract import Constraint
from .peek import constrained, distance
from .table import Table


@dataclass(frozen=True)
class Parameter:
    """What ``summary`` says of one constrained parameter."""

    function: Any
    shape: tuple[int, ...]
    dimension: int | None
    distance: float | None
    moved: float | None
    moved_percent: float | None
    update: str
    batch: int | None
    evaluations: int
    decay_target: str | None


def summary(model: nn.Module) -> Table[Parameter]:
    """Every constrained parameter of ``model``, as a dict by qualified name; printed, a table.

    Each row has ``function`` (the set with its map, or f), ``shape`` of y, ``dimension`` of the
    set, ``distance`` from it (as in :func:`violations`), how far registration ``moved`` the value
    (Frobenius norm) and that as ``moved_percent`` of its norm, ``update``, how many parameters are
    evaluated with it as one (``batch``), the ``evaluations`` of f so far, and ``decay_target``:
    where weight decay on x pulls y. "-" (None) stands where there is no answer: a function that is
    no set, a value that became x. What several modules share has one row, as in
    ``model.named_parameters()``. A copy was not moved itself: ``moved`` belongs to the model that
    was registered. Nothing is counted, kept or changed.

    Args:
        model: any module; the tree below it is searched.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from constrainedparams import Sphere, register_constrained_parameter, summary
        >>> layer = nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(2 * torch.eye(2))
        >>> _ = register_constrained_parameter(layer, "weight", Sphere())
        >>> row = summary(layer)["weight"]
        >>> row.dimension, row.distance, row.moved_percent
        (2, 0.0, 50.0)
        >>> str(summary(layer)).splitlines()[0].split()
        ['name', 'function', 'shape', 'dimension', 'distance', 'moved', 'moved', 'percent',
         'update', 'batch', 'evaluations', 'decay', 'target']
    """
    rows: Table[Parameter] = Table()
    seen: set[Slot] = set()
    for qualified, module, name, slot in constrained(model, "summary"):
        if slot not in seen:
            rows[qualified] = _row(module, name)
            seen.add(slot)
    return rows


def _row(module: nn.Module, name: str) -> Parameter:
    slot = slots_of(module)[name]
    dimension = target = None
    if isinstance(slot.function, Constraint):
        x = getattr(module, raw_name(name))
        dimension = slot.function.dimension(slot.shape, x.dtype)
        target = slot.function.decay_target
    moved, percent = slot.moved or (None, None)
    return Parameter(
        function=slot.function,
        shape=slot.shape,
        dimension=dimension,
        distance=distance(module, name),
        moved=moved,
        moved_percent=percent,
        update=slot.mode,
        batch=None if slot.batch is None else len(slot.batch),
        evaluations=slot.counts.evaluations,
        decay_target=target,
    )
