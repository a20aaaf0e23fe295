"""What must not reach f from the outside."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from ..sets.contract import UNCHANGED, autocasts, without_autocast
from . import private


def isolated(device: torch.device, grad: bool) -> AbstractContextManager[Any]:
    """No autocast, inference mode or saved-tensor hooks of somebody else; grad mode ``grad``."""
    as_it_is = (
        torch.is_grad_enabled() is grad
        and not autocasts(device)
        and not torch.is_inference_mode_enabled()
        and not private.saved_tensor_hooks()
    )
    return UNCHANGED if as_it_is else _isolated(device, grad)


@contextmanager
def _isolated(device: torch.device, grad: bool) -> Iterator[None]:
    plain, shield = private.plain_saved_tensors(), without_autocast(device)
    with torch.inference_mode(False), torch.set_grad_enabled(grad), plain, shield:
        yield
