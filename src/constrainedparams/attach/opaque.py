"""f as one operation that compilers do not look into, remembered while a graph is traced."""

import itertools
import types
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from ..core import private
from ..functions.call import call
from ..functions.held import holds_tensors
from ..numerics.precision import full_precision
from ..sets.contract import Constraint

_counter = itertools.count()
_equal: dict[Any, int] = {}  # what makes functions equal, to their number
_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_functions: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_kept: list[Any] = []  # an equal set may outlive the first one
_alike: dict[int, weakref.WeakSet[nn.Module]] = {}
_memo: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()
_INTERNAL = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, str)

evaluate: Any  # see __getattr__


def number_of(function: Any) -> int:
    """A number for ``function``, one for all that are equal; -1 when there can be none.

    Compilers look into f that holds tensors of its own: they are inputs of the graph.
    """
    if not isinstance(function, Constraint) and holds_tensors(function):
        return -1
    try:
        key = _what_counts(function)
        known: Any = _numbers if key is None else _equal
        entry = function if key is None else key
        if entry not in known:
            known[entry] = next(_counter)
            _functions[known[entry]] = function
            if known is _equal and not isinstance(function, nn.Module):
                _kept.append(function)
        number = int(known[entry])
    except TypeError:  # neither hashable nor weakly referable
        return -1
    if known is _equal and isinstance(function, nn.Module):
        _alike.setdefault(number, weakref.WeakSet()).add(function)
    return number


def _what_counts(function: Any) -> Any:
    """What two functions have in common that are equal up to their settings; None: compare ids."""
    if isinstance(function, Constraint):
        return function
    if isinstance(function, nn.Module):
        return _structure(function)
    if isinstance(function, types.FunctionType):  # the lambda of a class is made anew by each block
        bound = function.__closure__ or function.__defaults__ or function.__kwdefaults__
        return None if bound else (function.__code__, id(function.__globals__))
    return None


def _structure(function: nn.Module) -> Any:
    """Classes and names of an nn.Module that consists of parameters and ``_PLAIN`` attributes."""
    order: dict[int, int] = {}
    found: list[Any] = []
    for name, part in function.named_modules():
        own = {key: value for key, value in vars(part).items() if key not in _INTERNAL}
        hooks = any(value for key, value in vars(part).items() if key.endswith("_hooks"))
        if hooks or part._buffers or any(type(value) not in _PLAIN for value in own.values()):
            return None
        names = [(key, order.setdefault(id(p), len(order))) for key, p in part._parameters.items()]
        found.append((name, type(part), tuple(names), tuple(own)))
    return tuple(found)


def settings_of(function: nn.Module) -> tuple[tuple[str, Any], ...]:
    """train/eval and the other plain attributes; traced by Dynamo, which guards what it sees."""
    return tuple(
        (key, value)
        for part in function.modules()
        for key, value in part.__dict__.items()
        if type(value) in _PLAIN
    )


def _function(number: int, settings: tuple[tuple[str, Any], ...]) -> Any:
    """A function of that number with these settings now; there is one: it is being traced."""
    alike = _alike.get(number)
    if alike is None:
        return _functions[number]
    return next(f for f in alike if settings_of(f) == settings)


def _evaluate(number: int, settings: Any, state_names: tuple[str, ...], *tensors: Tensor) -> Tensor:
    """f at x = ``tensors[0]``, remembered while one graph is traced."""
    x, state, own = tensors[0], tensors[1 : 1 + len(state_names)], tensors[1 + len(state_names) :]

    def value() -> Tensor:
        named = dict(zip(state_names, state, strict=True))
        with full_precision(x.device):
            return call(_function(number, settings), x, named, own)

    context = private.tracing_context()
    if context is None:
        return value()
    known = _memo.setdefault(context, {})
    # The version tells an x that was changed inside of the graph, grad mode a read without grad.
    key = (number, settings, torch.is_grad_enabled(), *((id(t), t._version) for t in tensors))
    if key not in known:
        known[key] = tensors, value()  # holding the tensors keeps their ids
    found: Tensor = known[key][1]
    return found


def __getattr__(name: str) -> Any:
    """``evaluate`` comes to be when Dynamo first looks for it: its import takes seconds."""
    if name != "evaluate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["evaluate"] = torch.compiler.allow_in_graph(_evaluate)
    return _evaluate
