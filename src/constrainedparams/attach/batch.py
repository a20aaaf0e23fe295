"""Many slots evaluated as one: equal sets on tensors of one shape, dtype and device."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core import private
from ..core.isolated import isolated
from ..core.pullback import Pullback
from ..core.slot import Record, Slot
from ..core.tensors import SLOTS, Unconstrained, guard, raw_name, state_of
from ..sets.contract import Constraint, has_option
from .checkpoints import mend
from .stacked import Stacked


class Member(NamedTuple):
    """A slot whose value is stale, where it lives, and why f has to run."""

    slot: Slot
    module: nn.Module
    name: str
    record: Record
    reason: str


class Batch:
    """What slots of one set and shape share when f is evaluated for all of them at once.

    The first read of a stale member evaluates all that are stale; those with a value that holds
    keep it. It holds neither slots nor modules: the members of a copy join when they are made.
    """

    def __init__(self, function: Constraint):
        self.function = function  # of a stack
        self.members: dict[int, tuple[weakref.ref[Slot], weakref.ref[nn.Module], str]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self.function, "members": {}}

    def join(self, slot: Slot, module: nn.Module) -> None:
        """Make ``slot`` a member, read through ``module``."""
        key, slot.batch = id(slot), self
        held = self.members.get(key)
        if held is None or held[0]() is not slot or not _holds(held[1](), held[2], slot):
            gone = weakref.ref(slot, lambda _: self.members.pop(key, None))
            self.members[key] = gone, weakref.ref(module), slot.name_in(module)

    def present(self) -> Iterator[tuple[Slot, nn.Module, str]]:
        """Members that are still registered in their modules, with the names they have there."""
        for held, home, name in list(self.members.values()):
            slot, module = held(), home()
            if slot is None or module is None or slot.batch is not self:
                continue
            if _holds(module, name, slot):
                yield slot, module, name

    def __len__(self) -> int:
        return sum(1 for _ in self.present())

    def evaluate(self, slot: Slot, module: nn.Module, x: Tensor, reason: str) -> Record | None:
        """Evaluate ``slot`` and all stale members; None when it is to be done alone."""
        self.join(slot, module)
        if type(x) is not Unconstrained:
            return None
        first = Member(slot, module, slot.name_in(module), Record(x, slot.mode), reason)
        try:
            members = [first, *self._stale(first)]
            if len(members) > 1:
                self._run(members)
        except Exception:  # what one member does to f is no concern of a read of another
            return None
        return first.record if len(members) > 1 else None

    def _stale(self, first: Member) -> Iterator[Member]:
        """Members beside ``first`` and like it that f has to run for, with nothing in the way."""
        kind, with_grad = first.record.x.alias, torch.is_grad_enabled()
        wants_graph = _wants_graph(first.record, first.module, with_grad)
        for slot, module, name in self.present():
            x = module._parameters.get(raw_name(name))
            if x is None or slot is first.slot or slot.override:
                continue
            guard(x)
            if type(x) is not Unconstrained or x.is_inference():
                continue
            old = slot.record
            reason = slot.counts.reason if old is None else slot.changed(module, x, old)
            if reason and slot.untouched() and not slot.pending():
                mend(module, slot)
                record = Record(x, slot.mode)
                alias = record.x.alias
                if (
                    alias.dtype == kind.dtype
                    and alias.device == kind.device
                    and _wants_graph(record, module, with_grad) is wants_graph
                ):
                    yield Member(slot, module, name, record, reason)

    def _run(self, members: list[Member]) -> None:
        """One f for all. The versions of x were read before."""
        first = members[0]
        names, xs = first.slot.state_names, [m.record.x.tensor for m in members]
        wants_graph = _wants_graph(first.record, first.module, torch.is_grad_enabled())
        with isolated(xs[0].device), torch.set_grad_enabled(wants_graph):
            states = [state_of(m.module, m.name, names) for m in members]
            leaves = tuple([_leaf(m, wants_graph) for m in members])
            watchers = tuple([weakref.ref(m.slot) for m in members])
            stacked = torch.stack(leaves)
            value = self.function(
                stacked, **{key: torch.stack([held[key] for held in states]) for key in names}
            )
            graph = Stacked(stacked, value, leaves, watchers) if value.requires_grad else None
            ys = tuple(private.unbind_copy(value.detach()))
            if graph is not None:
                ys = Pullback.apply(graph, ys, *xs)
            for place, (slot, module, _, record, reason) in enumerate(members):
                slot.drop(reason)
                record.graph, record.place = graph, place
                record.companions = slot.companions or slot.watched(module)
                slot.hand_out(record, module, ys[place])
                slot.keep(record, reason)


def _holds(module: nn.Module | None, name: str, slot: Slot) -> bool:
    return module is not None and module.__dict__.get(SLOTS, {}).get(name) is slot


def _wants_graph(record: Record, module: nn.Module, with_grad: bool) -> bool:
    """As ``Slot.wants_graph`` for a set, without asking x again."""
    return record.x.requires_grad and (with_grad or module.training)


def _leaf(member: Member, wants_graph: bool) -> Tensor:
    """As ``Slot.leaf``, without another alias."""
    x = member.record.x.alias
    return (x.clone() if member.slot.mode == "manual" else x).requires_grad_(wants_graph)


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
