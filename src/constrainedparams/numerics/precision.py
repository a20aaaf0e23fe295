"""What lowers the precision of products from the outside, kept away from maps."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

__all__ = ["UNCHANGED", "full_precision"]

UNCHANGED = nullcontext()  # one for all calls: making it costs more than asking
_PRODUCTS: dict[str, Any] = {
    "cuda": torch.backends.cuda.matmul,
    "cpu": torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
}


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Products on ``device`` in the precision of their factors: no autocast, TF32 or bfloat16.

    With autocast to bfloat16 y would be 3e-2 away from the set at size 64, with TF32 1e-3.
    """
    if _lowered(device):
        return _exact(device)
    on = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else UNCHANGED


def _lowered(device: torch.device) -> bool:
    """Whether float32 products are computed in less; while a graph is traced it would not last."""
    if torch.compiler.is_compiling() or device.type not in _PRODUCTS:
        return False
    if _older() == "highest":
        return False
    lowered: bool = _PRODUCTS[device.type].fp32_precision in ("tf32", "bf16")
    return lowered


def _older() -> str | None:
    """The setting by its older name; None where a newer one says otherwise, and torch refuses."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """The setting belongs to the process: who finds it lowered puts it back."""
    products = _PRODUCTS[device.type]
    older, newer = _older() or "highest", products.fp32_precision
    try:
        torch.set_float32_matmul_precision("highest")  # sets both, so that torch finds no mixture
        products.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(older)
        products.fp32_precision = newer
