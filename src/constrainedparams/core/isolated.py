"""What must not reach f from the outside."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from ..numerics.precision import UNCHANGED, full_precision
from . import private


def isolated(device: torch.device, grad: bool) -> AbstractContextManager[Any]:
    """No autocast, inference mode or saved-tensor hooks of somebody else; grad mode ``grad``."""
    shield = full_precision(device)
    as_it_is = (
        torch.is_grad_enabled() is grad
        and shield is UNCHANGED
        and not torch.is_inference_mode_enabled()
        and not private.saved_tensor_hooks()
    )
    return UNCHANGED if as_it_is else _isolated(shield, grad)


@contextmanager
def _isolated(shield: AbstractContextManager[Any], grad: bool) -> Iterator[None]:
    plain = private.plain_saved_tensors()
    with torch.inference_mode(False), torch.set_grad_enabled(grad), plain, shield:
        yield
