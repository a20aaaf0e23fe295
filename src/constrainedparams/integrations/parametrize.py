"""torch.nn.utils.parametrize: our sets as parametrizations, parametrized models as constrained."""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .. import sets
from ..attach.classes import slots_of
from ..attach.guesses import kind, refuse_no_bool, refuse_no_module
from ..attach.registration import register_constrained_parameter
from ..attach.validation import (
    inside_wrappers,
    refuse_convolution,
    refuse_rescaled,
    refuse_wrapped,
)
from ..errors import ConstraintError, OptionError, RegistrationError
from ..sets.contract import Constraint, has_option

__all__ = ["SetParametrization", "adopt", "as_parametrization"]

logger = logging.getLogger("constrainedparams")
Module = TypeVar("Module", bound=nn.Module)


# our sets there ---------------------------------------------------------------------------------


class SetParametrization(nn.Module):
    """A set as a module with ``forward`` and ``right_inverse``; map state is its buffers."""

    def __init__(self, constraint: Constraint, project: bool = True):
        super().__init__()
        self.constraint = constraint
        self.project = project
        for name in constraint.state_names:
            self.register_buffer(name, None)

    def forward(self, x: Tensor) -> Tensor:
        names = self.constraint.state_names
        return self.constraint(x, **{k: t for k in names if (t := self._buffers[k]) is not None})

    @torch.no_grad()
    def right_inverse(self, y: Tensor) -> Tensor:
        if self.project and not bool(self.constraint.contains(y).all()):
            moved = self.constraint.project(y)
            gap = float(torch.linalg.vector_norm(moved - y))
            logger.info("a value was moved by %.3g onto %r", gap, self.constraint)
            y = moved
        found = self.constraint.right_inverse(y)
        x, state = found if isinstance(found, tuple) else (found, {})
        self._buffers.update(state)
        return x

    def extra_repr(self) -> str:
        return repr(self.constraint)


def as_parametrization(constraint: Constraint, *, project: bool = True) -> SetParametrization:
    """A set for ``torch.nn.utils.parametrize.register_parametrization``.

    f runs there as torch runs it: at every access, or once inside ``parametrize.cached()``.

    Args:
        constraint: any set. Where x has another shape than y (``unconstrained_shape``) or a map
            has state, it works the same.
        project: move values that are off the set onto it, as torch's own maps do, and log the
            distance at INFO; ``False`` refuses them.

    Raises:
        OptionError: ``constraint`` is no set.
        ConstraintViolation: at registration and assignment, with ``project=False``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from torch.nn.utils import parametrize
        >>> from constrainedparams import Sphere, as_parametrization
        >>> layer = nn.Linear(3, 2)
        >>> layer = parametrize.register_parametrization(
        ...     layer, "weight", as_parametrization(Sphere())
        ... )
        >>> torch.allclose(layer.weight.norm(dim=-1), torch.ones(2))
        True
    """
    if not isinstance(constraint, Constraint):
        raise OptionError(
            f"as_parametrization got {constraint!r}; expected a set, an instance such as "
            "Sphere(). A function or an nn.Module is a parametrization as it is."
        )
    refuse_no_bool("project", project)
    return SetParametrization(constraint, project)


# theirs here ------------------------------------------------------------------------------------


def _other_axes(dim: int, tensor: Tensor) -> tuple[int, ...]:
    return tuple(d for d in range(tensor.ndim) if d != dim % tensor.ndim)


def _rows_of(dim: int, tensor: Tensor) -> str | None:
    """The view of a tensor as a matrix whose rows are indexed by axis ``dim``."""
    if tensor.ndim == 2 and dim % 2 == 0:
        return None
    axes = [f"d{i}" for i in range(tensor.ndim)]
    row = axes[dim % tensor.ndim]
    rest = " ".join(axis for axis in axes if axis != row)
    return f"{' '.join(axes)} -> {row} ({rest})"


def _orthogonal(part: Any, _: Tensor) -> Constraint:
    name = part.orthogonal_map.name
    return sets.Orthogonal("exp" if name == "matrix_exp" else name)


def _weight_norm(part: Any, y: Tensor) -> Constraint:
    if y.ndim == 1 and part.dim != -1:
        raise RegistrationError(
            "weight_norm of single numbers, each a length times a sign: every value is possible, "
            "and nothing to constrain. First `torch.nn.utils.parametrize.remove_parametrizations`."
        )
    whole = part.dim == -1  # what torch makes of dim=None
    return sets.MagnitudeDirection(dim=None if whole else _other_axes(part.dim, y))


def _spectral_norm(part: Any, y: Tensor) -> Constraint:
    if y.ndim == 1:
        return sets.Sphere()
    return sets.SpectralSphere(view=_rows_of(part.dim, y))


# By module and name of the class: geotorch is not imported to be recognised.
_KNOWN: dict[str, Callable[[Any, Tensor], Constraint]] = {
    "torch._Orthogonal": _orthogonal,
    "torch._WeightNorm": _weight_norm,
    "torch._SpectralNorm": _spectral_norm,
    "constrainedparams.SetParametrization": lambda part, _: part.constraint,
    "geotorch.Symmetric": lambda *_: sets.Symmetric(),
    "geotorch.Skew": lambda *_: sets.Skew(),
    "geotorch.Sphere": lambda part, _: sets.Sphere(float(part.radius)),
    "geotorch.SphereEmbedded": lambda part, _: sets.Sphere(float(part.radius)),
    "geotorch.SO": lambda *_: sets.SpecialOrthogonal(),
    "geotorch.Stiefel": lambda *_: sets.Orthogonal(),
    "geotorch.Grassmannian": lambda *_: sets.Grassmann(),
    "geotorch.AlmostOrthogonal": lambda part, _: sets.BoundedSingularValues(
        1 - float(part.lam), 1 + float(part.lam)
    ),
    "geotorch.LowRank": lambda part, _: sets.LowRank(part.rank),
    "geotorch.FixedRank": lambda part, _: sets.FixedRank(part.rank),
    "geotorch.GLp": lambda *_: sets.Invertible(),  # half of its values have a determinant below 0
    "geotorch.SL": lambda *_: sets.SpecialLinear(),
    "geotorch.PSD": lambda *_: sets.PositiveDefinite(),
    "geotorch.PSSD": lambda *_: sets.PositiveSemidefinite(),
    "geotorch.PSSDLowRank": lambda part, _: sets.PositiveSemidefinite(part.rank),
    "geotorch.PSSDFixedRank": lambda part, _: sets.FixedRankPositiveSemidefinite(part.rank),
    "geotorch.Hurwitz": lambda part, _: sets.Hurwitz(float(part.alpha)),
}


_OLDER_NORMS = {
    "torch.nn.utils.weight_norm.WeightNorm": "weight_norm",
    "torch.nn.utils.spectral_norm.SpectralNorm": "spectral_norm",
}


def adopt(model: Module, functions: Mapping[str, Any] | None = None) -> Module:
    """Turn every tensor that ``torch.nn.utils.parametrize`` manages into a constrained parameter.

    Known are torch's ``orthogonal``, ``weight_norm`` and ``spectral_norm``, the constraints of
    geotorch, and :func:`as_parametrization`. Values are kept; one that is off the set (a power
    iteration that has not converged) is moved onto it, and the distance logged. Where theirs takes
    the last axes of a convolution for matrices or vectors, so does the set. Checkpoints of the
    parametrized model load into the adopted one. An optimiser must be made anew.

    Args:
        model: the tree of modules, changed in place.
        functions: qualified name -> set or function, for parametrizations that are not known
            and for those that are to become another set.

    Returns:
        ``model``.

    Raises:
        RegistrationError: an unknown parametrization, several on one tensor, or a name in
            ``functions`` that is not parametrized; a layer under the older ``torch.nn.utils.
            weight_norm`` or ``spectral_norm``; a model inside ``torch.compile``, DDP or FSDP.
        ConstraintViolation: a value that is not finite.

        Whatever is raised, the model is as it was.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from constrainedparams import adopt, constraint_of
        >>> layer = nn.utils.parametrizations.orthogonal(nn.Linear(3, 3))
        >>> before = layer.weight.detach().clone()
        >>> constraint_of(adopt(layer), "weight"), torch.allclose(layer.weight, before, atol=1e-6)
        (Orthogonal(), True)
    """
    refuse_no_module(model, "adopt")
    if not isinstance(functions, Mapping | None):
        raise RegistrationError(
            f"functions is {functions!r}; expected a dict from qualified names to sets or "
            'functions, such as {"0.weight": Orthogonal()}.'
        )
    _refuse_older_norms(model)
    found = _parametrized(model)
    given = dict(functions or {})
    if unknown := given.keys() - found.keys():
        raise RegistrationError(
            f"functions names {', '.join(sorted(unknown))}; parametrized in this model: "
            f"{', '.join(found) or 'nothing'}."
        )
    wrapped, chosen = inside_wrappers(), {}
    for qualified, (module, name) in found.items():  # every complaint before any change
        try:
            refuse_wrapped(module, wrapped)
            chosen[qualified] = given.get(qualified) or _recognised(qualified, module, name)
            trial = nn.Module()
            trial.value = nn.Parameter(getattr(module, name).detach().clone())
            refuse_convolution(module, name, trial.value, chosen[qualified])
            refuse_rescaled(module, name)
            register_constrained_parameter(trial, "value", chosen[qualified])
        except ConstraintError as error:
            raise type(error)(f"{qualified}: {error} Nothing was changed.") from error
    for qualified, (module, name) in found.items():
        parametrizations: Any = module.parametrizations
        former = _Former(name, copy.deepcopy(parametrizations[name]))
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        _drop_torchs_own_reader(module)
        register_constrained_parameter(module, name, chosen[qualified])
        module.register_load_state_dict_pre_hook(former)
    return model


def _refuse_older_norms(model: nn.Module) -> None:
    """The older functions of these names leave hooks and no parametrization: nothing to adopt."""
    for prefix, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            norm = _OLDER_NORMS.get(f"{type(hook).__module__}.{type(hook).__name__}")
            if norm is not None:
                raise RegistrationError(
                    f"{prefix or kind(module)} is under torch.nn.utils.{norm}, which is "
                    f"no parametrization. Call `torch.nn.utils.remove_{norm}` and register a set, "
                    f"or make the layer with `torch.nn.utils.parametrizations.{norm}`."
                )


def _parametrized(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    found: dict[str, tuple[nn.Module, str]] = {}
    for prefix, module in model.named_modules():
        if parametrize.is_parametrized(module):
            parametrizations: Any = module.parametrizations
            for name in parametrizations:
                found[f"{prefix}.{name}" if prefix else name] = module, name
    return found


def _recognised(qualified: str, module: nn.Module, name: str) -> Constraint:
    """The set that stands for the parametrization of ``module.name``."""
    parts = list(module.parametrizations[name])  # type: ignore[index]
    kinds = [f"{type(p).__module__.split('.')[0]}.{type(p).__name__}" for p in parts]
    make = _KNOWN.get(kinds[0]) if len(kinds) == 1 else None
    if make is None:
        what = "several parametrizations" if len(kinds) > 1 else "a parametrization not known here"
        raise RegistrationError(
            f"{what}: {', '.join(kinds)}. Say what it becomes: "
            f'adopt(model, {{"{qualified}": function}}).'
        )
    y = getattr(module, name)
    return _read_as_there(make(parts[0], y), y.ndim)


def _read_as_there(constraint: Constraint, ndim: int) -> Constraint:
    """Of more than two axes they take the last ones, which is said here in so many words."""
    options: dict[str, Any] = {}
    if ndim > 2 and has_option(constraint, "view") and constraint.view is None:
        options["view"] = "batch"
    if ndim > 2 and has_option(constraint, "dim") and constraint.dim == -1:
        options["dim"] = ndim - 1
    return replace(constraint, **options)


def _drop_torchs_own_reader(module: nn.Module) -> None:
    """weight_norm leaves a local function on the module, which would make it unpicklable."""
    for key, hook in list(module._load_state_dict_pre_hooks.items()):
        function = getattr(hook, "hook", hook)
        if getattr(function, "__name__", "") == "_weight_norm_compat_hook":
            del module._load_state_dict_pre_hooks[key]


class _Former:
    """Reads checkpoints of the module as it was parametrized, weight_norm's older keys too."""

    OLD_KEYS = ("_g", "original0"), ("_v", "original1")

    def __init__(self, name: str, parametrization: nn.Module):
        self.name = name
        self.parametrization = parametrization

    def __call__(self, module: nn.Module, entries: dict[str, Any], prefix: str, *_: Any) -> None:
        below = f"{prefix}parametrizations.{self.name}."
        for old, new in self.OLD_KEYS:
            if (key := f"{prefix}{self.name}{old}") in entries:
                entries[below + new] = entries.pop(key)
        own = {key: entries[key] for key in entries if key.startswith(below)}
        slot = slots_of(module).get(self.name)
        if not own or slot is None:
            return
        reader = copy.deepcopy(self.parametrization)
        try:
            reader.load_state_dict({key.removeprefix(below): own[key] for key in own})
        except RuntimeError as error:
            raise ConstraintError(
                f"{slot.where(module)}: {', '.join(own)} of the checkpoint do not fit the "
                "parametrization that was adopted. Make the model as it was for the checkpoint, "
                f"load, then adopt. {error}"
            ) from error
        with torch.no_grad():
            y = reader.eval()()
        function = slot.function_of(module)
        off = isinstance(function, Constraint) and not bool(function.contains(y).all())
        if off and bool(torch.isfinite(y).all()):  # what is not is refused below, by its name
            y = function.project(y)
        for key in own:
            del entries[key]
        entries[prefix + self.name] = y
