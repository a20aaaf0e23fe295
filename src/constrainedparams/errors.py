"""Every complaint of the library: each message gives the value, the expectation and the remedy."""

__all__ = [
    "CapturedTensor",
    "ConstraintError",
    "ConstraintViolation",
    "DtypeError",
    "FunctionError",
    "NoRightInverse",
    "OptionError",
    "PendingGradients",
    "RegistrationError",
    "ShapeError",
    "StaleOptimizer",
]


class ConstraintError(Exception):
    """Base of every error raised by this library.

    No subclass derives from AttributeError: an AttributeError raised by a descriptor would send
    Python on to ``nn.Module.__getattr__``, which replaces its message by "has no attribute".
    """


class RegistrationError(ConstraintError, ValueError):
    """A parameter, module, function or option with which nothing can be registered or removed."""


class ConstraintViolation(ConstraintError, ValueError):
    """A value that is not on the set, with its distance."""


class NoRightInverse(ConstraintError, TypeError):
    """A value was written to y = f(x), and f has no right inverse that would give x."""


class FunctionError(ConstraintError, ValueError):
    """f(x) cannot be a constrained tensor: not one, not finite, of another dtype or device."""


class CapturedTensor(FunctionError):
    """f depends on a tensor that trains and that it does not own."""


class PendingGradients(ConstraintError, RuntimeError):
    """Gradients collected by ``deferred_pullback`` would be lost or used twice."""


class ShapeError(ConstraintError, ValueError):
    """A shape on which a set is not defined, or not the shape of the constrained tensor."""


class StaleOptimizer(ConstraintError, RuntimeError):
    """An optimiser still holds a parameter that registration replaced by one of another shape."""


class OptionError(ConstraintError, ValueError):
    """An option or a constant with which a set does not exist."""


class DtypeError(ConstraintError, TypeError):
    """A dtype in which a set has no version."""
