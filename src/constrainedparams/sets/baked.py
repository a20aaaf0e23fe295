"""Constants in compiled graphs, as one operation that compilers do not look into."""

import weakref
from typing import Any

import torch
from torch import Tensor

__all__ = ["Numbers", "numbers_of", "tensor"]

tensor: Any  # see __getattr__


class Numbers:
    """The entries of a constant as an array, which no transform or mode of torch knows."""

    def __init__(self, array: Any) -> None:
        self._array = array

    @property
    def entries(self) -> Any:
        """Nested lists: what can become a tensor anywhere."""
        return self._array.tolist()


_known: weakref.WeakValueDictionary[str, Numbers] = weakref.WeakValueDictionary()


def numbers_of(digest: str, array: Any) -> Numbers:
    """Those of equal constants are one object; the digest leads to it while one of them lives."""
    return _known.setdefault(digest, Numbers(array))


def _tensor(digest: str, like: Tensor) -> Tensor:
    """The constant in the dtype and on the device of ``like``.

    Dynamo compares the digest. It would unroll a list, and check each number at every call.
    """
    return torch.tensor(_known[digest].entries, dtype=like.dtype, device=like.device)


def __getattr__(name: str) -> Any:
    """``tensor`` comes to be when Dynamo first looks for it: its import takes seconds."""
    if name != "tensor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["tensor"] = torch.compiler.allow_in_graph(_tensor)
    return _tensor
