"""What f is called in messages, in repr and in the metadata of checkpoints."""

import functools
from typing import Any

import torch
from torch import nn


def describe(function: Any) -> str:
    """``repr`` of sets, class of modules and callable objects, qualified name of functions."""
    if isinstance(function, nn.Module):
        return f"{type(function).__name__}()"
    name = getattr(function, "__name__", "")
    if name and getattr(torch, name, None) is function:
        return f"torch.{name}"
    if isinstance(function, functools.partial):
        named = [f"{key}={value!r}" for key, value in function.keywords.items()]
        given = [describe(function.func), *map(repr, function.args), *named]
        return f"partial({', '.join(given)})"
    plain: Any = object.__repr__
    if type(function).__repr__ is plain:
        return f"{type(function).__name__}()"  # its address is no name
    return getattr(function, "__qualname__", None) or repr(function)
