"""`Parametrized`, the typed mix-in, and the opt-in method on every ``nn.Module``."""

from typing import Any, Self

from torch import Tensor, nn

from ..attach.registration import register_constrained_parameter
from ..errors import ConstraintError, RegistrationError
from .queries import updated


class ConstrainedModule(nn.Module):
    """An ``nn.Module`` with the method ``register_constrained_parameter``.

    Example:
        >>> import torch
        >>> from constrainedparams import ConstrainedModule
        >>> class Layer(ConstrainedModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.W = torch.nn.Parameter(torch.zeros(2, 2))
        ...         self.register_constrained_parameter("W", torch.exp)
        >>> Layer().W.sum().item()
        4.0
    """

    def register_constrained_parameter(
        self, name: str, function: Any, update: str = "auto", *, project: bool = True
    ) -> Self:
        """See :func:`constrainedparams.register_constrained_parameter`."""
        return register_constrained_parameter(self, name, function, update, project=project)


class Parametrized(ConstrainedModule):
    """y = f(x) without a host module.

    Args:
        x: start, a floating point or complex tensor: the value to keep when f has a right inverse,
            the free tensor otherwise, as in ``register_constrained_parameter``.
        f: a set, an ``nn.Module`` or a callable.

    Example:
        >>> import torch
        >>> from constrainedparams import Parametrized
        >>> w = Parametrized(torch.zeros(3), torch.exp)
        >>> w.y.tolist(), w.x.tolist()
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
    """

    y: Any

    def __init__(self, x: Tensor, f: Any, update: str = "auto", *, project: bool = True):
        super().__init__()
        if not (isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())):
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise RegistrationError(
                f"x is {given}; expected a floating point or complex tensor, such as "
                "`torch.as_tensor(x, dtype=torch.float32)`, and after it the function."
            )
        start = x.detach().clone() if not isinstance(x, nn.Parameter) else x
        parameter = start if isinstance(start, nn.Parameter) else nn.Parameter(start)
        self.register_parameter("y", parameter)
        self.register_constrained_parameter("y", f, update, project=project)

    @property
    def x(self) -> nn.Parameter:
        """The unconstrained parameter."""
        return self._y_unconstrained  # type: ignore[return-value]

    @x.setter
    def x(self, _value: Tensor) -> None:
        raise ConstraintError(
            "w.x is the parameter that optimisers hold. Write into it: "
            "`with torch.no_grad(): w.x.copy_(value)`."
        )

    def updated(self) -> None:
        """Say that x was changed: f runs again at the next read."""
        updated(self, "y")

    update = updated

    def forward(self) -> Tensor:
        return self.y


def extend_nn_module() -> None:
    """Put ``register_constrained_parameter`` on every ``nn.Module``. Importing patches nothing.

    Example:
        >>> import torch
        >>> from constrainedparams import extend_nn_module
        >>> extend_nn_module()
        >>> lin = torch.nn.Linear(2, 2)
        >>> _ = lin.register_constrained_parameter(name="weight", function=torch.tanh)
        >>> del torch.nn.Module.register_constrained_parameter  # as it was
    """
    method = ConstrainedModule.register_constrained_parameter
    nn.Module.register_constrained_parameter = method  # type: ignore[attr-defined]
