"""Register and remove constrained parameters: validate everything, then change."""

import gc
import logging
import sys
import weakref
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..core import optimizers, private, verified
from ..core.isolated import isolated
from ..core.slot import MODES, Slot
from ..core.tensors import SLOTS, Retired, function_name, guard, guardable, raw_name, state_name
from ..errors import RegistrationError
from ..functions.call import finite_or_raise
from ..functions.describe import describe
from ..functions.inverse import has_right_inverse, preimage
from ..sets.contract import Constraint, MatrixConstraint, VectorConstraint
from . import guesses
from .classes import set_class, slots_of

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
            ``"verified"`` also compares values; ``"auto"`` becomes this for a subclass of
            ``nn.Parameter``, whose ``.data`` cannot be watched.
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
    _check_arguments(module, name, function, update)
    present = slots_of(module).get(name)
    if present is not None:
        mode = _possible(update, module._parameters[raw_name(name)])
        _same_or_refuse(module, present, function, mode)
        return module
    parameter = parameter_of(module, name)
    refuse_wrapped(module)
    _refuse_convolution(module, name, parameter, function)
    _refuse_rescaled(module, name)
    slot = Slot(name, function, _possible(update, parameter))
    x, state = _start(module, slot, parameter, project)
    _commit(module, slot, parameter, x, state)
    return module


# validation -------------------------------------------------------------------------------------


def _check_arguments(module: Any, name: Any, function: Any, update: Any) -> None:
    if not isinstance(module, nn.Module):
        raise RegistrationError(
            f"module is {type(module).__name__}; expected an nn.Module. "
            + guesses.module_for(module)
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
    if isinstance(module, torch.jit.ScriptModule):
        raise RegistrationError("module is a ScriptModule; register before torch.jit.script.")


def _possible(update: str, x: nn.Parameter | None) -> str:
    """Where not every write to x can be seen, its values are compared."""
    unseen = private.degraded() or not (x is None or guardable(x))
    return "verified" if update == "auto" and unseen else update


def _same_or_refuse(module: nn.Module, slot: Slot, function: Any, update: str) -> None:
    if not _same_function(slot.function, function) or slot.mode != update:
        raise RegistrationError(
            f"{slot.where(module)} is already constrained by {describe(slot.function)} "
            f"(update={slot.mode!r}). Before registering another function call "
            f"`remove_constrained_parameter(module, {slot.name_in(module)!r})`."
        )


def _same_function(one: Any, other: Any) -> bool:
    """A notebook cell that runs twice makes an equal function, not the same one."""
    if isinstance(one, FunctionType) and isinstance(other, FunctionType):
        cells = [[c.cell_contents for c in f.__closure__ or ()] for f in (one, other)]
        held = all(a is b for a, b in zip(*cells, strict=False))
        return held and (one.__code__, one.__defaults__) == (other.__code__, other.__defaults__)
    return one is other or (isinstance(one, Constraint) and one == other)


def parameter_of(module: nn.Module, name: Any) -> nn.Parameter:
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
    if not (parameter.is_floating_point() or parameter.is_complex()):
        raise RegistrationError(
            f"{where} is {parameter.dtype}; expected a floating point or complex parameter. Cast "
            f"it first: `module.{name} = nn.Parameter(module.{name}.float())`."
        )
    return parameter


def _refuse_convolution(module: nn.Module, name: str, parameter: Tensor, function: Any) -> None:
    """Four axes are no batch of matrices or vectors unless the user says so."""
    if not (isinstance(module, private.convolution) and name == "weight"):
        return
    has = f"{guesses.kind(module)}.weight has {parameter.ndim} axes, and {function!r} is a set of"
    if isinstance(function, MatrixConstraint) and function.view is None:
        raise RegistrationError(
            f'{has} matrices. Say how to read it: view="{guesses.view_for(module, parameter)}", '
            'or view="batch" for a batch of small matrices.'
        )
    if isinstance(function, VectorConstraint) and function.dim == -1:
        raise RegistrationError(
            f"{has} vectors. Say which axes: dim={tuple(range(1, parameter.ndim))} for one vector "
            f"for each filter, or dim={parameter.ndim - 1} for the last axis."
        )


def _refuse_rescaled(module: nn.Module, name: str) -> None:
    """The forward would write into y after it was read, and be differentiated at the old y."""
    if name == "weight" and getattr(module, "max_norm", None) is not None:
        raise RegistrationError(
            f"{guesses.kind(module)}.weight is rescaled in place by max_norm={module.max_norm} in "
            "every forward. Write `module.max_norm = None` and bound the rows by a set, such as "
            "`Sphere()`."
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


def refuse_wrapped(module: nn.Module) -> None:
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
            "found. Register and remove constrained parameters before wrapping, on the plain model."
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
        with isolated(parameter.device), torch.no_grad():
            x, state, target = preimage(slot.function, parameter, where, project)
        slot.moved = _distance(parameter.detach(), target)
        if slot.moved[0]:
            size = "%s was moved by %.3g (%.3g %%) onto %s"
            logger.info(size, where, *slot.moved, describe(slot.function))
    y = slot.attempt(module, x, state)
    finite_or_raise(slot.function, y, where)
    slot.state_names = tuple(state)
    slot.shape = tuple(y.shape)
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
        retire(parameter, slot.where(module))
    rename(module, name, raw_name(name), raw)
    for key, tensor in state.items():
        module.register_buffer(state_name(name, key), tensor.detach().clone())
    if isinstance(slot.function, nn.Module):
        module._modules[function_name(name)] = slot.function
        for own in slot.function.parameters():
            guard(own)
    module.__dict__.setdefault(SLOTS, {})[name] = slot
    set_class(module)
    optimizers.install()
    if slot.record is not None:
        optimizers.follow(slot)
    if slot.mode == "verified":
        verified.install(slot)


def retire(parameter: nn.Parameter, where: str) -> None:
    """An optimiser that still holds ``parameter`` raises at its next step."""
    if type(parameter) is nn.Parameter:
        parameter.__class__ = Retired
        parameter._replaced = where  # type: ignore[attr-defined]


def rename(module: nn.Module, old: str, new: str, parameter: nn.Parameter) -> None:
    """Replace an entry of ``_parameters`` in place: the order of parameters is kept."""
    entries = [(new, parameter) if k == old else (k, v) for k, v in module._parameters.items()]
    module._parameters.clear()
    module._parameters.update(entries)
