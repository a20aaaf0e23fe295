"""f as one operation that compilers do not look into, remembered while a graph is traced."""

import itertools
import weakref
from typing import Any

import torch
from torch import Tensor

from ..core import private
from ..functions.call import call
from ..sets.contract import Constraint, without_autocast

_counter = itertools.count()
_sets: dict[Constraint, int] = {}
_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_functions: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_kept: list[Constraint] = []  # an equal set may outlive the first one
_memo: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()

evaluate: Any  # see __getattr__


def number_of(function: Any) -> int:
    """A number for ``function``, one for all that are equal; -1 when there can be none."""
    known: Any = _sets if isinstance(function, Constraint) else _numbers
    try:
        if function not in known:
            known[function] = next(_counter)
            _functions[known[function]] = function
            if known is _sets:
                _kept.append(function)
        return int(known[function])
    except TypeError:  # neither hashable nor weakly referable
        return -1


def _evaluate(number: int, state_names: tuple[str, ...], *tensors: Tensor) -> Tensor:
    """f at x = ``tensors[0]``, remembered while one graph is traced."""
    x, state, own = tensors[0], tensors[1 : 1 + len(state_names)], tensors[1 + len(state_names) :]

    def value() -> Tensor:
        named = dict(zip(state_names, state, strict=True))
        with without_autocast(x.device):
            return call(_functions[number], x, named, own)

    context = private.tracing_context()
    if context is None:
        return value()
    known = _memo.setdefault(context, {})
    # The version tells an x that was changed inside of the graph, grad mode a read without grad.
    key = (number, torch.is_grad_enabled(), *((id(t), t._version) for t in tensors))
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
