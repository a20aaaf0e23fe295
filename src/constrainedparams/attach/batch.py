"""Many slots evaluated as one: equal sets on tensors of one shape, dtype and device."""

import sys
import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core import optimizers, private
from ..core.isolated import isolated
from ..core.pullback import Pullback
from ..core.slot import Record, Slot
from ..core.tensors import SLOTS, Home, Unconstrained, guard, raw_name
from ..sets.contract import Constraint, has_option
from .checkpoints import mend
from .stacked import Stacked, copies


class Member(weakref.ref[Slot]):
    """A slot that is evaluated with others, and where it is read."""

    __slots__ = ("home", "key", "raw")
    home: Home
    key: int
    raw: str  # the name of x

    def module(self) -> nn.Module | None:
        """Where the slot is still registered."""
        module, name = self.home[0](), self.home[1]
        if module is None or module.__dict__.get(SLOTS, {}).get(name) is not self():
            return None
        return module


Stale = tuple[Member, Slot, Record, str]  # a member, its next record, why f has to run


class Batch:
    """What slots of one set and shape share when f is evaluated for all of them at once.

    The first read of a stale member evaluates all that are stale; those with a value that holds
    keep it. It holds neither slots nor modules: the members of a copy join when they are made.
    """

    def __init__(self, function: Constraint):
        self.function = function  # of a stack
        self.members: dict[int, Member] = {}
        self._gone = _forget(self.members)

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self.function}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["function"])  # type: ignore[misc]

    def join(self, slot: Slot, module: nn.Module) -> None:
        """Make ``slot`` a member, read through ``module``."""
        key, slot.batch = id(slot), self
        known = self.members.get(key)
        if known is None or known() is not slot or known.module() is None:
            self.members[key] = member = Member(slot, self._gone)
            name = slot.name_in(module)
            member.key, member.home = key, (weakref.ref(module), name)
            member.raw = sys.intern(raw_name(name))
            optimizers.follow(slot)

    def __len__(self) -> int:
        found = [(member(), member.module()) for member in list(self.members.values())]
        return sum(1 for slot, module in found if slot and module and slot.batch is self)

    def evaluate(self, slot: Slot, module: nn.Module, x: Tensor, reason: str) -> Record | None:
        """Evaluate ``slot`` and all stale members; None when it is to be done alone."""
        self.join(slot, module)
        if type(x) is not Unconstrained:
            return None
        try:
            wants_graph = slot.wants_graph(module, (x,))
            with private.plain_getters():
                record = _record(slot, module, x)
                stale = self._stale(slot, x, wants_graph)
                stale.append((self.members[id(slot)], slot, record, reason))
            if len(stale) > 1:
                slot.drop(reason)
                self._run(stale, wants_graph)
        except Exception:  # what one member does to f is no concern of a read of another
            return None
        return record if len(stale) > 1 else None

    def _stale(self, first: Slot, like: Tensor, wants_graph: bool) -> list[Stale]:
        """Members beside ``first`` and like it that f has to run for, with nothing in the way."""
        dtype, device, with_grad = like.dtype, like.device, torch.is_grad_enabled()
        stale: list[Stale] = []
        for member in list(self.members.values()):
            slot, module = member(), member.module()
            if slot is None or module is None or slot is first or slot.override:
                continue
            x = module._parameters.get(member.raw)
            if type(x) is not Unconstrained:
                if x is None or type(x) is not nn.Parameter:
                    continue
                guard(x)
            if slot.batch is not self or x.dtype is not dtype or x.device != device:
                continue
            old, reason = slot.record, slot.counts.reason
            if old is not None or slot.former:
                reason = reason if old is None else slot.changed(module, x, old)
                if not reason or not slot.untouched() or slot.pending():
                    continue
                slot.drop(reason)
            if (x.requires_grad and (with_grad or module.training)) is wants_graph:
                try:
                    stale.append((member, slot, _record(slot, module, x), reason))
                except RuntimeError:  # a tensor of inference mode has no version
                    continue
        return stale

    def _run(self, stale: list[Stale], wants_graph: bool) -> None:
        """One f for all."""
        _, slot, record, _ = stale[0]
        device, names = record.tensor.device, slot.state_names
        xs = tuple([record.tensor for _, _, record, _ in stale])
        with isolated(device, False):
            stacked = torch.stack(xs).requires_grad_(wants_graph)
            kept = [record.companions.watches for _, _, record, _ in stale]
            state = {k: torch.stack([w[i].tensor for w in kept]) for i, k in enumerate(names)}
        with isolated(device, wants_graph):
            value = self.function(stacked, **state)
            ys, graph = copies(value.detach()), None
            if value.requires_grad:
                watchers = tuple([member for member, *_ in stale])
                versions = [record.version for _, _, record, _ in stale]
                known = None if slot.mode == "manual" else versions
                graph = Stacked(stacked, value, xs, known, watchers)
                ys = Pullback.over(graph, ys, xs)
        node = ys[0].grad_fn
        with private.plain_getters():
            for place, (member, slot, record, reason) in enumerate(stale):
                record.graph, record.place = graph, place
                record.hold(y := ys[place], y, member.home, node)
                slot.counts.evaluations += 1
                slot.counts.reason = reason
                slot.record = record


def _forget(members: dict[int, Member]) -> Any:
    return lambda member: members.pop(member.key, None)


def _record(slot: Slot, module: nn.Module, x: Tensor) -> Record:
    """The key of what is evaluated now; x itself stands for the alias that others have of it."""
    record, known = Record(x, slot.snapshot, x), slot.companions
    if known is None or not known.same() or not (known.sound or "base" not in slot.state_names):
        mend(module, slot)
        known = slot.watched(module, slot.known(module))
    record.companions = known
    return record


def over_stack(function: Constraint, ndim: int) -> Constraint:
    """``function`` with its axes counted from the end: for a stack of tensors of ``ndim`` axes."""
    if has_option(function, "dim"):
        dim = range(ndim) if function.dim is None else function.dim
        axes = (dim,) if isinstance(dim, int) else tuple(dim)
        axes = tuple(axis if axis < 0 else axis - ndim for axis in axes)
        return replace(function, dim=axes[0] if len(axes) == 1 else axes)  # type: ignore[call-arg]
    if has_option(function, "view") and function.view not in (None, "batch"):
        axis = "layers"
        while axis in function.view:
            axis += "s"
        left, right = function.view.split("->")
        return replace(function, view=f"{axis} {left} -> {axis} {right}")  # type: ignore[call-arg]
    return function
