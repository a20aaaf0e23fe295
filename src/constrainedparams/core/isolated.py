"""What must not reach f from the outside."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..sets.contract import without_autocast
from . import private


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """No autocast, no inference mode, no saved-tensor hooks of somebody else around f."""
    with torch.inference_mode(False), private.plain_saved_tensors(), without_autocast(device):
        yield
