"""The tensors a user holds: x, a parameter whose ``.data`` is watched, and y, handed out."""

import sys
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ConstraintError, RegistrationError
from . import private

_detach = private.detach
Home = tuple[weakref.ref[nn.Module], str]  # where y is read, and its name there


def _equal_to(base: Any) -> Any:
    """A metaclass with ``type(t) == base``, which foreach paths and compiled graphs ask."""

    class Equal(type(base)):  # type: ignore[misc]
        def __eq__(cls, other: object) -> bool:
            return other is base or type.__eq__(cls, other)

        def __hash__(cls) -> int:
            return hash(base)

    return Equal


class _Watched(Any if TYPE_CHECKING else object):  # type: ignore[misc]
    """``nn.Parameter(tensor)`` works for a watched tensor as for a plain one."""

    def register_hook(self, hook: Any) -> Any:
        """As on any tensor: no call for the None of a backward that reached others of a batch."""
        counts = getattr(hook, "__module__", "") == "torch.autograd.graph"  # of a multi-grad hook
        return super().register_hook(lambda g: hook(g) if counts or g is not None else None)

    def register_post_accumulate_grad_hook(self, hook: Any) -> Any:
        came = [True]
        super().register_hook(lambda grad: came.__setitem__(0, grad is not None))
        return super().register_post_accumulate_grad_hook(lambda x: hook(x) if came[0] else None)

    def detach(self) -> Any:
        plain, caller = _detach(self), sys._getframe(1)
        if caller.f_code is private.PARAMETER_NEW:
            # nn.Parameter.__new__ wants the class back and then sets _is_param: see there.
            plain.__class__ = type(self)
        elif private.called_by_average(caller, self):
            torch.autograd.graph.increment_version(self)
        return plain

    @property
    def _is_param(self) -> bool:
        if isinstance(self, Constrained) and private.called_by_tracer(sys._getframe(1).f_back):
            raise RegistrationError(
                f"`{self._home[1]}` is y = f(x), which torch.fx would keep as a constant while x "
                "changes. Trace `bake(model)`, or use `torch.export.export(model, inputs)`."
            )
        return isinstance(self, Unconstrained)

    @_is_param.setter
    def _is_param(self, _: bool) -> None:
        if isinstance(self, Constrained):  # a parameter of its own, not an alias of y
            private.tensor_data.__set__(self, _detach(self).clone())
        self.__class__ = nn.Parameter  # type: ignore[assignment]


class Unconstrained(_Watched, nn.Parameter, metaclass=_equal_to(nn.Parameter)):  # type: ignore[metaclass]
    """x: an ``nn.Parameter`` whose ``.data`` shares the version counter, so no write is missed.

    A parameter becomes one by a change of its class in place, and keeps its identity.
    """

    __torch_function__ = private.disabled_torch_function

    @property
    def data(self) -> Tensor:
        return _detach(self)

    @data.setter
    def data(self, value: Tensor) -> None:
        private.tensor_data.__set__(self, value)
        if not self.is_inference():
            torch.autograd.graph.increment_version(self)

    def __repr__(self) -> str:  # type: ignore[override]
        shown = _detach(self).requires_grad_(self.requires_grad)
        return f"Parameter containing:\n{shown!r}"


class Retired(nn.Parameter, metaclass=_equal_to(nn.Parameter)):  # type: ignore[metaclass]
    """A parameter that registration replaced by one of another shape: no optimiser may step it."""

    _replaced: str
    __torch_function__ = private.disabled_torch_function


class Constrained(_Watched, torch.Tensor, metaclass=_equal_to(torch.Tensor)):  # type: ignore[metaclass]
    """y = f(x): results of operations on it are plain tensors, writes to it are noticed."""

    __torch_function__ = private.disabled_torch_function
    _home: Home

    def _owner(self) -> tuple[nn.Module, str]:
        module = self._home[0]()
        if module is None:
            raise RuntimeError("the module this constrained tensor was read from no longer exists")
        return module, self._home[1]

    def updated(self) -> None:
        """Say that x was changed: f runs again at the next read."""
        module, name = self._owner()
        module.__dict__[SLOTS][name].expire(module)

    update = updated

    @property
    def data(self) -> Tensor:
        return _detach(self)

    @data.setter
    def data(self, value: Tensor) -> None:
        module, name = self._owner()
        setattr(module, name, value)

    @property
    def is_leaf(self) -> bool:  # type: ignore[override]
        if sys._getframe(1).f_code.co_name == "add_param_group":  # an optimiser asks
            raise RegistrationError(
                f"`{self._home[1]}` is y = f(x), which no optimiser can hold. Give it "
                f"`module.{raw_name(self._home[1])}`, or all of `module.parameters()`."
            )
        return private.is_leaf.__get__(self)

    @property
    def grad(self) -> Tensor | None:
        if not hasattr(self, "_home") or self.is_leaf or self.retains_grad:
            return private.tensor_grad.__get__(self)
        name = self._home[1]
        if str(sys._getframe(1).f_globals.get("__name__")).startswith("torch._"):
            return None  # a compiler looks at its inputs
        warnings.warn(
            f"`{name}.grad` is not filled: `{name}` is y = f(x). dL/dx is in "
            f"`{raw_name(name)}.grad`; for dL/dy call `{name}.retain_grad()` before backward.",
            stacklevel=2,
        )
        return None

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None and hasattr(self, "_home") and not self.retains_grad:
            name = self._home[1]
            raise ConstraintError(
                f"`{name}.grad = ...` would be lost: `{name}` is y = f(x), which no optimiser "
                f"holds. Write to `{raw_name(name)}.grad`."
            )
        private.tensor_grad.__set__(self, value)

    @property
    def requires_grad(self) -> bool:
        return private.requires_grad.__get__(self)

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Freeze or unfreeze x, of which this tensor is a function."""
        if not hasattr(self, "_home"):  # a parameter in the making: see _Watched
            return private.set_requires_grad(self, requires_grad)
        module, name = self._owner()
        module._parameters[raw_name(name)].requires_grad_(requires_grad)  # type: ignore[union-attr]
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return memo.setdefault(id(self), _detach(self).clone())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _detach(self).clone().__reduce_ex__(protocol)  # what is shared memory stays here


def as_constrained(y: Any, home: Home) -> Constrained:
    """Make ``y`` a constrained tensor in place: autograd refuses views after a write to them."""
    y.__class__ = Constrained
    y._home = home
    return y


SLOTS = "_constrained_slots"  # where a module keeps its slots by name


def raw_name(name: str) -> str:
    """Where the unconstrained tensor of ``name`` is registered."""
    return f"_{name}_unconstrained"


def state_name(name: str, key: str) -> str:
    """The buffer that holds what the map of ``name`` remembers as ``key``."""
    return f"_{name}_{key}"


def state_of(module: nn.Module, name: str, names: tuple[str, ...]) -> dict[str, Tensor]:
    """What a map remembers, kept in buffers ``_{name}_{key}`` of the layer."""
    return {key: module._buffers[state_name(name, key)] for key in names}  # type: ignore[misc]


def function_name(name: str) -> str:
    """The submodule that an ``nn.Module`` f of ``name`` becomes."""
    return f"_{name}_function"


def guard(x: Tensor) -> None:
    """Watch ``x``: plain parameters only, subclasses of others keep their own class."""
    if type(x) is nn.Parameter:
        x.__class__ = Unconstrained
