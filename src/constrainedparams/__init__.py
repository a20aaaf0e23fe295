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
from .tools.deferred import deferred_pullback
from .tools.modules import ConstrainedModule, Parametrized, extend_nn_module
from .tools.plain import plain_state_dict
from .tools.queries import constraint_of, is_constrained, updated
from .tools.removal import remove_constrained_parameter
from .tools.statistics import statistics
from .tools.temporary import temporarily

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
    "constraint_of",
    "deferred_pullback",
    "extend_nn_module",
    "is_constrained",
    "plain_state_dict",
    "register_constrained_parameter",
    "remove_constrained_parameter",
    "statistics",
    "temporarily",
    "updated",
    *_sets,
]
