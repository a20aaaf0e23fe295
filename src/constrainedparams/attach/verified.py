"""update="verified": x compared with a snapshot, once per outermost forward or bare access."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from ..core.tensors import Unconstrained

_depth = 0
_epoch = 0
_users = 0
_hooks: list[Any] = []


def _enter(_module: Any, _args: Any) -> None:
    global _depth, _epoch
    if _depth == 0:
        _epoch += 1
    _depth += 1


def _leave(_module: Any, _args: Any, _result: Any) -> None:
    global _depth
    _depth = max(0, _depth - 1)


def install(slot: Any) -> None:
    """Count outermost forwards while a verified parameter lives: hooks cost each call."""
    global _users
    _users += 1
    weakref.finalize(slot, _release)
    if not _hooks:
        _hooks.append(nn_module.register_module_forward_pre_hook(_enter))
        _hooks.append(nn_module.register_module_forward_hook(_leave, always_call=True))


def take_over(slot: Any, x: Any) -> None:
    """x became a parameter of somebody else's class, whose ``.data`` cannot be watched."""
    if slot.mode == "auto" and issubclass(type(x), nn.Parameter) and not is_watched(x):
        slot.mode, slot.snapshot = "verified", Snapshot
        install(slot)


def is_watched(x: Any) -> bool:
    """Whether every write to x through torch is seen, or will be from the first read on."""
    return type(x) in (nn.Parameter, Unconstrained)


def _release() -> None:
    global _users, _depth
    _users -= 1
    if _users == 0:
        _depth = 0
        while _hooks:
            _hooks.pop().remove()


class Snapshot:
    """The value x had when f ran."""

    __slots__ = ("epoch", "value")

    def __init__(self, x: Tensor):
        self.value = x.detach().clone()
        self.epoch = _epoch if _depth else -1

    def same(self, x: Tensor) -> bool:
        if _depth and self.epoch == _epoch:
            return True
        equal = torch.equal(self.value, x.detach())
        if equal and _depth:
            self.epoch = _epoch
        return equal
