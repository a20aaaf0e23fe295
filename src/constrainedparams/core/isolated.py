"""What must not reach f from the outside."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from ..numerics.precision import full_precision
from . import private


def isolated(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast, no inference mode, no saved-tensor hooks of somebody else around f."""
    shield = full_precision(device)
    open_ = torch.is_inference_mode_enabled() or private.saved_tensor_hooks()
    return _isolated(shield) if open_ else shield


@contextmanager
def _isolated(shield: AbstractContextManager[Any]) -> Iterator[None]:
    with torch.inference_mode(False), private.plain_saved_tensors(), shield:
        yield
