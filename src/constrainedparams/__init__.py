"""Weights that stay on a set: y = f(x) with x free, f evaluated once per change of x."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .attach.registration import register_constrained_parameter
from .errors import (
    CapturedTensor,
    ConstraintError,
    ConstraintViolation,
    DtypeError,
    FunctionError,
    NoRightInverse,
    OptionError,
    PendingGradients,
    RegistrationError,
    ShapeError,
    StaleOptimizer,
)
from .sets import *  # noqa: F403  (sets/__init__.py names them)
from .sets import __all__ as _sets
from .tools.bake import bake
from .tools.batching import batch
from .tools.compiling import compile  # noqa: A004  (the name of torch's)
from .tools.deferred import deferred_pullback
from .tools.factor import factor
from .tools.groups import parameter_groups
from .tools.modules import ConstrainedModule, Parametrized, extend_nn_module
from .tools.patterns import register_constrained_parameters
from .tools.plain import plain_state_dict
from .tools.queries import constraint_of, is_constrained, updated
from .tools.removal import remove_constrained_parameter
from .tools.retract import retract
from .tools.sharing import share_constrained_parameter
from .tools.statistics import statistics
from .tools.summary import summary
from .tools.temporary import temporarily
from .tools.violations import violations

if TYPE_CHECKING:
    from .integrations.distributions import from_distributions, to_distributions
    from .integrations.parametrize import adopt, as_parametrization

# Loaded at their first use: they enter our sets into registries of the systems that they serve.
_ON_DEMAND = {
    "adopt": "parametrize",
    "as_parametrization": "parametrize",
    "from_distributions": "distributions",
    "to_distributions": "distributions",
}

__all__ = [
    "CapturedTensor",
    "ConstrainedModule",
    "ConstraintError",
    "ConstraintViolation",
    "DtypeError",
    "FunctionError",
    "NoRightInverse",
    "OptionError",
    "Parametrized",
    "PendingGradients",
    "RegistrationError",
    "ShapeError",
    "StaleOptimizer",
    "adopt",
    "as_parametrization",
    "bake",
    "batch",
    "compile",
    "constraint_of",
    "deferred_pullback",
    "extend_nn_module",
    "factor",
    "from_distributions",
    "is_constrained",
    "parameter_groups",
    "plain_state_dict",
    "register_constrained_parameter",
    "register_constrained_parameters",
    "remove_constrained_parameter",
    "retract",
    "share_constrained_parameter",
    "statistics",
    "summary",
    "temporarily",
    "to_distributions",
    "updated",
    "violations",
    *_sets,
]


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.integrations.{_ON_DEMAND[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
