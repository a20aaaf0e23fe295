"""The classes constrained modules get: one per base class and set of names, shared."""

import functools
import sys
import weakref
from typing import Any

import torch
from torch import nn

from ..core import private, writes
from ..core.slot import Slot
from ..core.tensors import SLOTS, Constrained, raw_name
from ..errors import ConstraintError, RegistrationError
from ..functions.describe import describe
from . import tracing, verified
from .checkpoints import keep_wide, mend, sign, translate
from .tie import together

_classes: dict[tuple[type, tuple[str, ...]], type] = {}
_displaced: weakref.WeakKeyDictionary[Slot, list[Any]] = weakref.WeakKeyDictionary()


def slots_of(module: nn.Module) -> dict[str, Slot]:
    """The slots of one module by name; empty when nothing is constrained."""
    return module.__dict__.get(SLOTS, {})


class Value:
    """Descriptor of y. The hit is spelled out here: it runs at each access."""

    def __init__(self, name: str):
        self.name = name
        self.raw = raw_name(name)

    def __get__(self, module: Any, owner: Any = None) -> Any:
        if module is None:
            return self
        own = module.__dict__
        try:
            slot = own[SLOTS][self.name]
        except KeyError:  # a shallow copy: removed from the other
            raise AttributeError(self.name) from None
        if torch.compiler.is_dynamo_compiling():
            return slot.override[-1] if slot.override else tracing.read(slot, module)
        record = slot.record
        y = None if record is None else record.out
        if y is not None and record.graph is not None and not slot.former:
            x = own["_parameters"].get(self.raw)
            if (
                x is record.tensor
                and record.alias_y._version == record.version_y
                and not slot.override
                and not private.dispatch_modes()
                and (record.stream is None or record.stream == private.stream(x))
                and private.tracing_state() is None
                and (
                    slot.trusting
                    or (
                        record.alias._version == record.version
                        and x.data_ptr() == record.pointer
                        and x.requires_grad is record.requires_grad
                        and record.companions.same()
                        and record.snapshot is None
                    )
                )
            ):
                slot.counts.hits += 1
                return y
        record = y = None  # what is dropped there must not live on here
        return _read(slot, module)

    def __set__(self, module: Any, value: Any) -> None:
        slot = module.__dict__[SLOTS][self.name]
        writes.replace(slot, module, value)

    def __delete__(self, module: Any) -> None:
        _refuse_deletion(self.name)


def _read(slot: Slot, module: Any) -> Any:
    """The read that is no hit."""
    try:
        if torch.compiler.is_compiling() and not slot.override:
            return tracing.read(slot, module)
        mend(module, slot)
        return slot.read(module)
    except AttributeError as error:
        slot.failure = error  # Python now asks __getattr__, which raises it again
        raise


class Cache:
    """Descriptor of ``_{name}_cache``: y when it is fresh, else None; f never runs."""

    def __init__(self, name: str):
        self.name = name

    def __get__(self, module: Any, owner: Any = None) -> Any:
        if module is None:
            return self
        slot = module.__dict__[SLOTS][self.name]
        record = slot.record
        if record is None or record.written():
            return None
        x = getattr(module, raw_name(self.name))
        with torch.no_grad():
            return None if slot.changed(module, x, record) else slot.again(module, record)

    def __set__(self, module: Any, value: Any) -> None:
        raise ConstraintError(
            f"`_{self.name}_cache` shows what is cached and cannot be set. To have f run again "
            f"call `module.{self.name}.updated()`; to set a value, `module.{self.name} = value`."
        )


def _refuse_deletion(name: Any) -> None:
    raise RegistrationError(
        f"`{name}` is constrained and cannot be deleted. Use "
        f'`remove_constrained_parameter(module, "{name}")` first.'
    )


class Generated:
    """What every generated class adds to its base."""

    _constrained_base: type
    _constrained_names: tuple[str, ...]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """``type(module)(...)`` makes a plain module: nothing is constrained in it yet."""
        object.__setattr__(self, "__class__", self._constrained_base)
        self.__init__(*args, **kwargs)  # type: ignore[misc]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """What a user does with each class he writes is not done again for this one."""

    def __setattr__(self, name: str, value: Any) -> None:
        slots = self.__dict__.get(SLOTS, {})
        slot = slots.get(name)
        if slot is not None:
            frame = sys._getframe(1)
            if frame.f_code is private.FUNCTIONAL_SWAP:  # no assignment by value
                _swap(slot, value, frame.f_locals["orig_tensor"])
            else:
                writes.replace(slot, self, value)  # type: ignore[arg-type]
            return
        super().__setattr__(name, value)
        for constrained, slot in slots.items():
            if name == raw_name(constrained):  # the same object set again may hold another value
                slot.drop("x was assigned")
                verified.take_over(slot, value)

    def __getattr__(self, name: str) -> Any:
        slot = self.__dict__.get(SLOTS, {}).get(name)
        if slot is not None and name not in self._constrained_names:
            set_class(self)  # type: ignore[arg-type]  # a shallow copy: registered on the other
            return getattr(self, name)
        if slot is not None and slot.failure is not None:
            error, slot.failure = slot.failure, None
            raise error
        return super().__getattr__(name)  # type: ignore[misc]

    def __delitem__(self, key: Any) -> None:
        if key in self.__dict__.get(SLOTS, {}):
            _refuse_deletion(key)  # before a ParameterDict has forgotten the key
        super().__delitem__(key)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        for slot in self.__dict__.get(SLOTS, {}).values():
            slot.settle(self)  # a copy takes along what was written into y
        reduced = super().__reduce_ex__(max(2, int(protocol)))
        if getattr(reduced[0], "__name__", "") != "__newobj__":
            return reduced  # a class that says itself how it is rebuilt
        state = reduced[2]
        if isinstance(state, dict):
            state = {key: _plain(value) for key, value in state.items()}
        return (_rebuild, (self._constrained_base, self._constrained_names), state, *reduced[3:])

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        tracing.number(self)  # type: ignore[arg-type]
        for slot in self.__dict__.get(SLOTS, {}).values():
            if slot.tie is not None:
                slot.tie.holders.add(self)
        for slot in self.__dict__.get(SLOTS, {}).values():
            if slot.batch is not None:
                slot.batch.join(slot, self)

    def extra_repr(self) -> str:
        slots = self.__dict__.get(SLOTS, {})
        own = ", ".join(f"{n}: {describe(s.function)}" for n, s in slots.items())
        base = super().extra_repr()  # type: ignore[misc]
        return f"{base}, {own}" if base else own

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        module: Any = self
        slots = slots_of(module)
        before = {name: slot.state_in(module) for name, slot in slots.items()}
        for slot in slots.values():
            slot.settle(module)
            slot.drop("module moved or cast")
        with together(module):
            result = super()._apply(fn, recurse)  # type: ignore[misc]
            for name, slot in slots.items():
                keep_wide(self, slot, before[name])
                slot.companions = None  # it holds what was there before
        return result

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for slot in self.__dict__[SLOTS].values():
            slot.settle(self)
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[misc]
        sign(self.__dict__[SLOTS], destination, prefix)

    def _load_from_state_dict(self, *args: Any) -> None:
        module: Any = self
        slots = self.__dict__[SLOTS].values()

        def put(_: Any, entries: Any, prefix: str, metadata: Any, *_args: Any) -> None:
            for slot in slots:
                translate(module, slot, entries, prefix, metadata)
            for slot in slots:
                slot.drop("load_state_dict")  # the last writer wins: writes to y are given up

        # The last hook: others, and what a class does before, may give old entries their names.
        last = module.register_load_state_dict_pre_hook(put)
        try:
            with together(module):
                super()._load_from_state_dict(*args)  # type: ignore[misc]
        finally:
            last.remove()
        for slot in slots:
            slot.drop("load_state_dict")


def _swap(slot: Slot, value: Any, present: Any) -> None:
    """torch.func.functional_call puts a tensor in y's place, and later ``present`` back."""
    displaced = _displaced.setdefault(slot, [])
    if displaced and value is displaced[-1]:
        displaced.pop()
        slot.override = slot.override[:-1]
    else:
        displaced.append(present)
        slot.override += (value,)


def _plain(value: Any) -> Any:
    """Constrained tensors kept in lists (RNN's flat weights) travel as plain detached ones."""
    if isinstance(value, list) and any(isinstance(v, Constrained) for v in value):
        return [v.detach() if isinstance(v, Constrained) else v for v in value]
    return value


@functools.cache
def _metaclass(kind: Any) -> Any:
    """Makes ``type(module) == nn.Linear`` true, which ``Module.apply`` is shown with."""

    class EqualsBase(kind):
        def __eq__(self, other: object) -> bool:
            return other is self or other is self.__dict__.get("_constrained_base")

        def __hash__(self) -> int:
            return hash(self.__dict__.get("_constrained_base", self.__name__))

    return EqualsBase


def generated_class(base: type, names: tuple[str, ...]) -> type:
    """The class for ``base`` with ``names`` constrained; pickle finds it through base."""
    key = (base, names)
    if key not in _classes:
        namespace: dict[str, Any] = {"_constrained_base": base, "_constrained_names": names}
        for name in names:
            namespace[name] = Value(name)
            namespace[f"_{name}_cache"] = Cache(name)
        namespace["__module__"] = base.__module__
        namespace["__doc__"] = base.__doc__
        make: Any = _metaclass(type(base))  # nn.Module classes may have a metaclass of their own
        _classes[key] = make(f"Constrained{base.__name__}", (Generated, base), namespace)
    return _classes[key]


def _rebuild(base: type, names: tuple[str, ...]) -> Any:
    cls: Any = generated_class(base, names)
    return cls.__new__(cls)


def base_of(module: nn.Module) -> type:
    """The class that the user gave ``module``."""
    return getattr(type(module), "_constrained_base", type(module))


def set_class(module: nn.Module) -> None:
    """Give ``module`` the class for the slots it has now; its own class when it has none."""
    base = base_of(module)
    names = tuple(sorted(slots_of(module)))
    cls = generated_class(base, names) if names else base
    object.__setattr__(module, "__class__", cls)  # not through what a user does at an assignment
    tracing.number(module)
