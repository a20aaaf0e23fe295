"""Register and remove constrained parameters: validate everything, then change."""

import difflib
import gc
import logging
import sys
import weakref
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from ..errors import PendingGradients, RegistrationError
from ..sets.contract import Constraint
from . import optimizers, private, verified
from .classes import SLOTS, set_class, slots_of
from .function import describe, finite_or_raise, has_right_inverse, preimage
from .slot import MODES, Slot
from .tensors import Retired, guard, raw_name, unguard

_seen: dict[type[nn.Module], tuple[int, list[weakref.ref[nn.Module]]]] = {}
logger = logging.getLogger("constrainedparams")
Module = TypeVar("Module", bound=nn.Module)


def register_constrained_parameter(
    module: Module, name: str, function: Any, update: str = "auto", *, project: bool = True
) -> Module:
    """Make ``module.name`` the constrained tensor y = f(x), x a free parameter.

    Args:
        module: owner of the parameter.
        name: name of an ``nn.Parameter`` of ``module``, of shape S.
        function: f: a set (:class:`Constraint`), an ``nn.Module`` or a callable from one tensor to
            one tensor of the same dtype and device. With a right inverse (every set; any function
            with a method ``right_inverse``) the present value is kept; otherwise it becomes x.
        update: ``"auto"`` notices changes of x, ``"manual"`` waits for ``y.updated()``,
            ``"verified"`` also compares values.
        project: move a value that is off the set onto it; ``False`` refuses it.

    Returns:
        ``module``. x is ``module._{name}_unconstrained``, the same ``nn.Parameter`` object as
        before when the shapes agree.

    Raises:
        RegistrationError: nothing can be registered under this name with this function.
        ConstraintViolation: the value is off the set and ``project`` is False.
        FunctionError: f(x) is no tensor, not finite, or of another dtype or device.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from constrainedparams import register_constrained_parameter
        >>> layer = register_constrained_parameter(nn.Linear(3, 3), "weight", torch.tanh)
        >>> layer.weight is layer.weight
        True
        >>> bool((layer.weight.abs() < 1).all())
        True
    """
    _check_arguments(module, function, update)
    present = slots_of(module).get(name)
    if present is not None:
        _same_or_refuse(module, present, function, update)
        return module
    parameter = _parameter_of(module, name)
    _refuse_wrapped(module)
    _refuse_convolution(module, name, parameter, function)
    private.warn_if_degraded()
    update = "verified" if private.degraded() and update == "auto" else update
    slot = Slot(name, function, update)
    x, state = _start(module, slot, parameter, project)
    _commit(module, slot, parameter, x, state)
    return module


def remove_constrained_parameter(module: Module, name: str, keep: str = "constrained") -> Module:
    """Make ``module.name`` a plain ``nn.Parameter`` again.

    Args:
        module: a module with a constrained parameter.
        name: its name.
        keep: ``"constrained"`` for the value y, ``"unconstrained"`` for x.

    Returns:
        ``module``, with its original class after the last removal.

    Raises:
        RegistrationError: nothing is constrained under this name, or a wrapper sits on top.
    """
    if keep not in ("constrained", "unconstrained"):
        raise RegistrationError(
            f'keep={keep!r}: expected "constrained" (the value y) or "unconstrained" (x).'
        )
    slot = slots_of(module).get(name)
    if slot is None:
        known = ", ".join(slots_of(module)) or "none"
        raise RegistrationError(
            f"{type(module).__name__}.{name} is not constrained; constrained here: {known}."
        )
    _refuse_wrapped(module)
    if slot.pending():
        raise PendingGradients(
            f"`{name}` has gradients collected by deferred_pullback pending; run the last backward "
            "outside the block or call `discard()` before removing it."
        )
    with torch.no_grad():
        value = getattr(module, name).detach().clone()
    x = module._parameters[raw_name(name)]
    assert x is not None
    plain = _plain_parameter(x, value if keep == "constrained" else x.detach())
    slot.drop("removed")
    for key in slot.state_names:
        del module._buffers[f"_{name}_{key}"]
        module._non_persistent_buffers_set.discard(f"_{name}_{key}")
    module._modules.pop(f"_{name}_function", None)
    _rename(module, raw_name(name), name, plain)
    del module.__dict__[SLOTS][name]
    if not module.__dict__[SLOTS]:
        del module.__dict__[SLOTS]
    set_class(module)
    return module


def _plain_parameter(x: nn.Parameter, value: Tensor) -> nn.Parameter:
    """x itself with ``value`` when the shapes agree, so that an optimiser keeps working."""
    if x.shape != value.shape:
        return nn.Parameter(value.clone(), requires_grad=x.requires_grad)
    with torch.no_grad():
        x.copy_(value)
    x.grad = None
    unguard(x)
    return x


# validation -------------------------------------------------------------------------------------


def nearest(word: str, known: Any) -> str:
    """ "; did you mean ..." for the names nearest to ``word``."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def _check_arguments(module: Any, function: Any, update: Any) -> None:
    if not isinstance(module, nn.Module):
        raise RegistrationError(
            f"module is {type(module).__name__}; expected an nn.Module. For a tensor without a "
            "module use `Parametrized(tensor, function)`."
        )
    if update not in MODES:
        raise RegistrationError(
            f"update={update!r}: expected one of {', '.join(map(repr, MODES))}."
            + nearest(str(update), MODES)
        )
    if isinstance(function, type):
        raise RegistrationError(
            f"function is the class {function.__name__}; expected an instance. Write "
            f"`{function.__name__}()`."
        )
    if not callable(function):
        raise RegistrationError(
            f"function is {type(function).__name__}, which cannot be called; expected a set such "
            "as `Orthogonal()`, an nn.Module or a function of one tensor."
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise RegistrationError("module is a ScriptModule; register before torch.jit.script.")


def _same_or_refuse(module: nn.Module, slot: Slot, function: Any, update: str) -> None:
    if not _same_function(slot.function, function) or slot.mode != update:
        raise RegistrationError(
            f"{slot.where(module)} is already constrained by {describe(slot.function)} "
            f"(update={slot.mode!r}). Call `remove_constrained_parameter(module, {slot.name!r})` "
            "before registering another function."
        )


def _same_function(one: Any, other: Any) -> bool:
    """A notebook cell that runs twice makes an equal function, not the same one."""
    if isinstance(one, FunctionType) and isinstance(other, FunctionType):
        cells = [[c.cell_contents for c in f.__closure__ or ()] for f in (one, other)]
        held = all(a is b for a, b in zip(*cells, strict=False))
        return held and (one.__code__, one.__defaults__) == (other.__code__, other.__defaults__)
    return one is other or (isinstance(one, Constraint) and one == other)


def _parameter_of(module: nn.Module, name: Any) -> nn.Parameter:
    """The parameter to constrain, or the reason why there is none."""
    where = f"{type(module).__name__}.{name}"
    parameter = module._parameters.get(name) if isinstance(name, str) else None
    if parameter is None:
        present = hasattr(type(module), str(name)) or hasattr(module, str(name))
        known = [k for k, v in module._parameters.items() if v is not None]
        if present and str(name) not in module._parameters:
            inner = getattr(module, "module", None) or getattr(module, "_orig_mod", None)
            if isinstance(inner, nn.Module):
                raise RegistrationError(
                    f"{type(module).__name__} wraps another module, which owns `{name}`. Register "
                    "on the module inside, before wrapping it."
                )
            raise RegistrationError(
                f"{where} is {type(getattr(module, name, None)).__name__}, not an nn.Parameter. "
                f"Make it one: `module.{name} = nn.Parameter(...)`."
            )
        raise RegistrationError(
            f"{where} does not exist or is None; parameters here: {', '.join(known) or 'none'}."
            + nearest(str(name), known)
        )
    if is_lazy(parameter):
        raise RegistrationError(
            f"{where} is lazy and has no shape yet. Run the module once on an input, then register."
        )
    if parameter.is_meta:
        raise RegistrationError(
            f"{where} is on the meta device and has no value. Materialise it first: "
            "`module.to_empty(device=...)`, then initialise it and register."
        )
    if not (parameter.is_floating_point() or parameter.is_complex()):
        raise RegistrationError(
            f"{where} is {parameter.dtype}; expected a floating point or complex parameter. Cast "
            "it first, for example with `module.float()`."
        )
    return parameter


def _refuse_convolution(module: nn.Module, name: str, parameter: Tensor, function: Any) -> None:
    """Four axes are no batch of matrices unless the user says so."""
    matrix_set = isinstance(function, Constraint) and function.event_dim == 2
    unread = matrix_set and getattr(function, "view", None) is None
    if unread and isinstance(module, _ConvNd) and name == "weight":
        axes = "o i " + " ".join("dhw"[-(parameter.ndim - 2) :])
        raise RegistrationError(
            f"{type(module).__name__}.weight has {parameter.ndim} axes, and {function!r} is a "
            f'set of matrices. Say how to read it: view="{axes} -> o ({axes[2:]})", or '
            'view="batch" for a batch of small matrices.'
        )


def _wrappers() -> list[nn.Module]:
    """Modules that keep hold of the parameters or of the code of the modules inside."""
    kinds: list[type[nn.Module]] = []
    if "torch._dynamo.eval_frame" in sys.modules:
        kinds.append(sys.modules["torch._dynamo.eval_frame"].OptimizedModule)
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


def _refuse_wrapped(module: nn.Module) -> None:
    """DDP, FSDP2 and torch.compile must come after: they keep what they found."""
    kinds = [c.__name__ for c in type(module).__mro__ if c.__name__ == "FSDPModule"]
    on_top = "_constrained_base" in type(module).__mro__[1].__dict__
    generated = "_constrained_base" in type(module).__dict__
    if on_top and not generated:
        kinds.append(type(module).__name__)
    if getattr(module, "_compiled_call_impl", None) is not None:
        kinds.append("torch.compile")
    for wrapper in _wrappers():
        if any(part is module for part in wrapper.modules()):
            kinds.append(type(wrapper).__name__)
    if kinds:
        raise RegistrationError(
            f"{type(module).__name__} is already inside {kinds[0]}, which keeps the parameters it "
            "found. Register and remove constrained parameters on the plain model, then wrap it."
        )


# commitment -------------------------------------------------------------------------------------


def _start(
    module: nn.Module, slot: Slot, parameter: nn.Parameter, project: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """x and map state; f is tried there before anything is written."""
    where = slot.where(module)
    state: dict[str, Tensor] = {}
    x: Tensor = parameter
    if has_right_inverse(slot.function):
        x, state, target = preimage(slot.function, parameter, where, project)
        slot.moved = _distance(parameter.detach(), target)
        if slot.moved[0]:
            size = "%s was moved by %.3g (%.3g %%) onto %s"
            logger.info(size, where, *slot.moved, describe(slot.function))
    y = slot.attempt(module, x, state)
    finite_or_raise(slot.function, y, where)
    slot.state_names = tuple(state)
    slot.shape = tuple(y.shape)
    slot.plain = slot.plain and not state
    return x, state


def _distance(value: Tensor, target: Tensor) -> tuple[float, float]:
    """How far registration moved the value: Frobenius norm, and that in percent of the value."""
    gap = float(torch.linalg.vector_norm(target - value.to(target.dtype)))
    size = float(torch.linalg.vector_norm(value.to(target.dtype)))
    return gap, 100 * gap / size if size else float("inf") if gap else 0.0


def _commit(
    module: nn.Module, slot: Slot, parameter: nn.Parameter, x: Tensor, state: dict[str, Tensor]
) -> None:
    """Nothing in here can fail on account of what the user gave."""
    name = slot.name
    raw = parameter
    if x.shape == parameter.shape:
        guard(parameter)
        if x is not parameter:
            with torch.no_grad():
                parameter.copy_(x)
        parameter.grad = None
    else:
        raw = nn.Parameter(x.clone(), requires_grad=parameter.requires_grad)
        guard(raw)
        if type(parameter) is nn.Parameter:
            parameter.__class__ = Retired
    _rename(module, name, raw_name(name), raw)
    for key, tensor in state.items():
        module.register_buffer(f"_{name}_{key}", tensor.detach().clone())
    if isinstance(slot.function, nn.Module):
        module._modules[f"_{name}_function"] = slot.function
    module.__dict__.setdefault(SLOTS, {})[name] = slot
    set_class(module)
    optimizers.install()
    if slot.record is not None:
        optimizers.follow(slot)
    if slot.mode == "verified":
        verified.install(slot)


def _rename(module: nn.Module, old: str, new: str, parameter: nn.Parameter) -> None:
    """Replace an entry of ``_parameters`` in place: the order of parameters is kept."""
    entries = [(new, parameter) if k == old else (k, v) for k, v in module._parameters.items()]
    module._parameters.clear()
    module._parameters.update(entries)


# queries ----------------------------------------------------------------------------------------


def is_constrained(module: nn.Module, name: str | None = None) -> bool:
    """Whether ``module.name`` is constrained; without a name, anything in the whole tree."""
    if name is not None:
        return name in slots_of(module)
    return any(slots_of(m) for m in module.modules())


def constraint_of(module: nn.Module, name: str) -> Any:
    """The set or function of ``module.name``, or None when it is not constrained."""
    slot = slots_of(module).get(name)
    return None if slot is None else slot.function


def updated(module: nn.Module, name: str | None = None) -> None:
    """Say that x was changed behind Python's back: f runs again at the next read.

    Without a name, for every constrained parameter in the tree.
    """
    if name is not None and name not in slots_of(module):
        raise RegistrationError(
            f"{type(module).__name__}.{name} is not constrained." + nearest(name, slots_of(module))
        )
    for part in module.modules() if name is None else (module,):
        for slot in slots_of(part).values():
            if name in (None, slot.name):
                slot.drop("updated() was called")
