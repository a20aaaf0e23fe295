"""Another value in y's place for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..core.tensors import raw_name
from ..errors import ShapeError
from .queries import slot_of


@contextmanager
def temporarily(module: nn.Module, name: str, value: Tensor) -> Iterator[Tensor]:
    """``module.name`` is ``value`` inside; x is untouched and receives no gradient from it.

    Args:
        module: owner of the constrained parameter.
        name: its name.
        value: a tensor of y's shape, cast to its dtype; it need not be on the set.

    Raises:
        RegistrationError: nothing is constrained under this name.
        ShapeError: ``value`` has another shape than y.

    Example:
        >>> import torch
        >>> from constrainedparams import Parametrized, temporarily
        >>> w = Parametrized(torch.zeros(2), torch.exp)
        >>> with temporarily(w, "y", torch.full((2,), 7.0)):
        ...     w.y.tolist()
        [7.0, 7.0]
        >>> w.y.tolist()
        [1.0, 1.0]
    """
    slot = slot_of(module, name)
    if not isinstance(value, Tensor) or tuple(value.shape) != slot.shape:
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(
            f"{slot.where(module)} has shape {slot.shape}; the temporary value is {given}. Give a "
            f"tensor of shape {slot.shape}."
        )
    value = value.to(getattr(module, raw_name(name)).dtype)  # as an assignment does
    slot.override += (value,)
    try:
        yield value
    finally:
        slot.override = slot.override[:-1]
