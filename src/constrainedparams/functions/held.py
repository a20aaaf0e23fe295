"""Whether f refers to tensors that are neither x nor its own parameters and buffers."""

import contextlib
import functools
import inspect
import itertools
import types
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

_OF_MODULES = frozenset(vars(nn.Module())) - {"_modules"}
_DEPTH, _WIDTH = 5, 100  # what f can reach may be a model or a data set


def holds_tensors(part: Any, depth: int = _DEPTH) -> bool:
    """Whether a closure, a default, a global name, an argument or an attribute is a tensor."""
    if isinstance(part, Tensor):
        return True
    inner = _inside(part) if depth else ()
    return any(holds_tensors(one, depth - 1) for one in itertools.islice(inner, _WIDTH))


def _inside(part: Any) -> Iterable[Any]:
    """What ``part`` refers to, if it is no class, no module of Python and not torch's own."""
    if isinstance(part, list | tuple):
        return part
    if isinstance(part, dict):
        return part.values()
    if isinstance(part, types.MethodType):
        return part.__func__, part.__self__
    if isinstance(part, functools.partial):
        return part.func, part.args, part.keywords
    if isinstance(part, types.FunctionType):
        return _of_function(part)
    if isinstance(part, type | types.ModuleType):
        return ()
    left_out = _OF_MODULES if isinstance(part, nn.Module) else frozenset()
    own = [value for key, value in getattr(part, "__dict__", {}).items() if key not in left_out]
    call = getattr(type(part), "forward" if left_out else "__call__", None)
    return [*own, call] if isinstance(call, types.FunctionType) else own


def _of_function(function: types.FunctionType) -> Iterable[Any]:
    if (function.__module__ or "").split(".")[0] == "torch":
        return ()
    with contextlib.suppress(ValueError):  # a name of its closure has no value yet
        names = inspect.getclosurevars(function)
        given = function.__defaults__, function.__kwdefaults__
        return *given, *names.nonlocals.values(), *names.globals.values()
    return ()
