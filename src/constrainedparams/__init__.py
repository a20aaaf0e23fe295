"""Weights that stay on a set: y = f(x) with x free, f evaluated once per change of x."""

from .attach.registration import register_constrained_parameter
from .errors import (
    CapturedTensor,
    ConstraintError,
    ConstraintViolation,
    FunctionError,
    NoRightInverse,
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

__all__ = [
    "CapturedTensor",
    "ConstrainedModule",
    "ConstraintError",
    "ConstraintViolation",
    "FunctionError",
    "NoRightInverse",
    "Parametrized",
    "PendingGradients",
    "RegistrationError",
    "ShapeError",
    "StaleOptimizer",
    "bake",
    "batch",
    "compile",
    "constraint_of",
    "deferred_pullback",
    "extend_nn_module",
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
    "updated",
    "violations",
    *_sets,
]
