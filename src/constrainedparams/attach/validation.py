"""What cannot be registered, and why."""

import gc
import sys
import warnings
import weakref
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..core import private
from ..core.slot import Slot
from ..core.tensors import Unconstrained, function_name, raw_name, state_name
from ..errors import RegistrationError
from ..functions.describe import describe
from ..sets.contract import Constraint, has_option
from . import guesses
from .classes import slots_of
from .combinations import second_set

MODES = ("auto", "manual", "verified")
_seen: dict[type[nn.Module], tuple[int, list[weakref.ref[nn.Module]]]] = {}


def check_arguments(module: Any, name: Any, function: Any, update: Any) -> None:
    if not isinstance(module, nn.Module):
        raise RegistrationError(
            f"module is {type(module).__name__}; expected an nn.Module. "
            + guesses.module_for(module)
        )
    if "_parameters" not in module.__dict__:
        raise RegistrationError(
            f"{guesses.kind(module)} has no parameters yet: its __init__ has not called that of "
            "nn.Module. Write `super().__init__()` before registering."
        )
    if update not in MODES:
        raise RegistrationError(
            f"update={update!r}: expected one of {', '.join(map(repr, MODES))}."
            + guesses.nearest(str(update), MODES)
        )
    if isinstance(function, type):
        raise RegistrationError(
            f"function is the class {function.__name__}; expected an instance. Write "
            f"`{function.__name__}()`."
        )
    if not callable(function):
        raise RegistrationError(f"function is {guesses.function_for(name, function)}")
    if isinstance(name, Tensor):
        own = next((k for k, p in module._parameters.items() if p is name), "weight")
        raise RegistrationError(f'name is a tensor; expected its name: write "{own}".')
    if isinstance(name, list | tuple):
        raise RegistrationError(
            f"name is {name!r}; expected one name. For several write "
            '`register_constrained_parameters(module, {"weight": ..., "bias": ...})`.'
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise RegistrationError("module is a ScriptModule; register before torch.jit.script.")


def same_or_refuse(module: nn.Module, slot: Slot, function: Any, update: str) -> None:
    if not _same_function(slot.function, function) or slot.mode != update:
        raise RegistrationError(
            f"{slot.where(module)} is already constrained by {describe(slot.function)} "
            f"(update={slot.mode!r}). Before registering another function call "
            f"`remove_constrained_parameter(module, {slot.name_in(module)!r})`. (A cell of a "
            "notebook that runs twice makes a new object: make it in a cell of its own.)"
            + second_set(slot.function, function)
        )


def _same_function(one: Any, other: Any) -> bool:
    """A notebook cell that runs twice makes an equal function, not the same one."""
    if isinstance(one, FunctionType) and isinstance(other, FunctionType):
        parts = [
            [f.__code__, *(c.cell_contents for c in f.__closure__ or ()), *(f.__defaults__ or ())]
            + [part for item in sorted((f.__kwdefaults__ or {}).items()) for part in item]
            for f in (one, other)
        ]
        alike = len(parts[0]) == len(parts[1])
        return alike and all(_same_value(a, b) for a, b in zip(*parts, strict=True))
    return one is other or (isinstance(one, Constraint) and one == other)


def _same_value(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.dtype == other.dtype and torch.equal(one, other))
    plain = (type(None), bool, int, float, complex, str, CodeType)
    return one is other or (type(one) is type(other) and isinstance(one, plain) and one == other)


def parameter_of(module: nn.Module, name: Any, function: Any = None) -> nn.Parameter:
    """The parameter to constrain, or the reason why there is none."""
    where = f"{guesses.kind(module)}.{name}"
    parameter = module._parameters.get(name) if isinstance(name, str) else None
    if parameter is None:
        raise RegistrationError(f"{where} {guesses.parameter_for(module, str(name))}")
    for constrained in slots_of(module):
        if name == raw_name(constrained):
            raise RegistrationError(
                f"{where} is the unconstrained tensor of `{constrained}`. Constrain it by a "
                f"function that does both, registered under `{constrained}`."
                + second_set(slots_of(module)[constrained].function, function)
            )
    if is_lazy(parameter):
        raise RegistrationError(
            f"{where} is lazy and has no shape yet. Run a forward once, then register."
        )
    if parameter.is_meta:
        raise RegistrationError(
            f"{where} is on the meta device and has no value. Materialise it first: "
            "`module.to_empty(device=...)`, then initialise it and register."
        )
    if parameter.layout != torch.strided:
        raise RegistrationError(
            f"{where} has the layout {parameter.layout}; expected a dense parameter. Register "
            "`parameter.to_dense()`; entries that stay 0 are those of FixedEntries(mask)."
        )
    if not (parameter.is_floating_point() or parameter.is_complex()):
        raise RegistrationError(
            f"{where} is {parameter.dtype}; expected a floating point or complex parameter. Cast "
            f"it first: `module.{name} = nn.Parameter(module.{name}.float())`."
        )
    return parameter


def refuse_taken(module: nn.Module, name: str, function: Any, state: Iterable[str]) -> None:
    """Names that x, map state, f and the cache get would overwrite or hide what is there."""
    needed = [raw_name(name), f"_{name}_cache", *(state_name(name, key) for key in state)]
    if isinstance(function, nn.Module):
        needed.append(function_name(name))
    taken = sorted(set(needed).intersection(dir(module)))
    if taken:
        raise RegistrationError(
            f"{guesses.kind(module)} has {' and '.join(map(repr, taken))} already; `{name}` needs "
            f"the names {', '.join(needed)}. Rename what is there before registering."
        )


def refuse_convolution(module: nn.Module, name: str, parameter: Tensor, function: Any) -> None:
    """Four axes are no batch of matrices or vectors unless the user says so."""
    if not (isinstance(module, private.convolution) and name == "weight"):
        return
    has = f"{guesses.kind(module)}.weight has {parameter.ndim} axes, and {function!r} is a set of"
    if has_option(function, "view") and function.view is None:
        raise RegistrationError(
            f'{has} matrices. Say how to read it: view="{guesses.view_for(module, parameter)}", '
            'or view="batch" for a batch of small matrices.'
        )
    if has_option(function, "dim") and function.dim == -1:
        raise RegistrationError(
            f"{has} vectors. Say which axes: dim={tuple(range(1, parameter.ndim))} for one vector "
            f"for each filter, or dim={parameter.ndim - 1} for the last axis."
        )


def refuse_tied(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """x of one parameter as the value of another would be two functions of one tensor.

    Parameters of an ``nn.Module`` f have the class of x too, hence the search.
    """
    if not isinstance(parameter, Unconstrained):
        return
    for holder in gc.get_referrers(parameter):
        entries = holder if isinstance(holder, dict) else {}
        keys = [key for key, value in entries.items() if value is parameter]
        if any(isinstance(key, str) and key.endswith("_unconstrained") for key in keys):
            raise RegistrationError(
                f"{guesses.kind(module)}.{name} is the unconstrained tensor of another constrained "
                "parameter, with which it was tied. Tie it to the constrained one instead: "
                f'`share_constrained_parameter(other, "{name}", module)`.'
            )


def refuse_rescaled(module: nn.Module, name: str) -> None:
    """The forward would write into y after it was read, and be differentiated at the old y."""
    if name == "weight" and getattr(module, "max_norm", None) is not None:
        raise RegistrationError(
            f"{guesses.kind(module)}.weight is rescaled in place by max_norm={module.max_norm} in "
            "every forward. Write `module.max_norm = None` and bound the rows by a set, such as "
            "`Sphere()`."
        )


def warn_of_padding(module: nn.Module, name: str, value: Tensor, target: Tensor) -> None:
    """Whoever pads counts on a row of zeros, which many sets do not have."""
    if not isinstance(module, nn.Embedding | nn.EmbeddingBag) or name != "weight":
        return
    row = module.padding_idx
    if row is not None and not bool(value[row].any()) and bool(target[row].any()):
        warnings.warn(
            f"{guesses.kind(module)}.weight: row {row}, which padding_idx keeps at zero, is not on "
            "the set and was moved onto it; it receives no gradient. Mask padded positions after "
            f"the lookup: `embedding(index) * (index != {row}).unsqueeze(-1)`.",
            stacklevel=5,
        )


def _wrappers() -> list[nn.Module]:
    """Modules that keep hold of the parameters or of the code of the modules inside."""
    kinds: list[type[nn.Module]] = []
    compiled = private.compiled_module()
    if compiled is not None:
        kinds.append(compiled)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        kinds.append(nn.parallel.DistributedDataParallel)
    return [holder for kind in kinds for holder in _instances(kind)]


def _instances(kind: type[nn.Module]) -> list[nn.Module]:
    """All live instances of a class. Each counts as a reference to it: no change, no search."""
    count, known = _seen.get(kind, (-1, []))
    alive = [ref() for ref in known]
    if sys.getrefcount(kind) != count or None in alive:
        alive = [o for o in gc.get_referrers(kind) if type(o) is kind]
        _seen[kind] = (sys.getrefcount(kind), [weakref.ref(o) for o in alive if o is not None])
    return [o for o in alive if o is not None]


def inside_wrappers() -> dict[int, str]:
    """Ids of all modules that a wrapper keeps hold of, with the kind of the wrapper."""
    return {
        id(part): type(wrapper).__name__ for wrapper in _wrappers() for part in wrapper.modules()
    }


def refuse_wrapped(module: nn.Module, wrapped: dict[int, str] | None = None) -> None:
    """DDP, FSDP2 and torch.compile must come after: they keep what they found."""
    kinds = [c.__name__ for c in type(module).__mro__ if c.__name__ == "FSDPModule"]
    on_top = "_constrained_base" in type(module).__mro__[1].__dict__
    generated = "_constrained_base" in type(module).__dict__
    if on_top and not generated:
        kinds.append(type(module).__name__)
    if getattr(module, "_compiled_call_impl", None) is not None:
        kinds.append("torch.compile")
    wrapped = inside_wrappers() if wrapped is None else wrapped
    if id(module) in wrapped:
        kinds.append(wrapped[id(module)])
    if kinds:
        raise RegistrationError(
            f"{guesses.kind(module)} is already inside {kinds[0]}, which keeps the parameters it "
            "found. Register and remove constrained parameters before wrapping, on the plain model."
        )
