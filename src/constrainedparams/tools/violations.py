"""How far every constrained parameter is from its set."""

from torch import nn

from .peek import constrained, distance


def violations(model: nn.Module) -> dict[str, float | None]:
    """Distance of every constrained parameter of ``model`` from its set, by qualified name.

    It is the largest ``residual`` in the parameter: rounding, about 1e-7 in float32, as long as
    nobody wrote a value off the set into y. None for a function that is no set, and on the meta
    device. f runs where no value is cached; nothing is counted, kept or changed.

    Args:
        model: any module; the tree below it is searched.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from constrainedparams import Orthogonal, register_constrained_parameter, violations
        >>> model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        >>> _ = register_constrained_parameter(model[0], "weight", Orthogonal())
        >>> _ = register_constrained_parameter(model[1], "weight", torch.tanh)
        >>> violations(model)["0.weight"] < 1e-5, violations(model)["1.weight"]
        (True, None)
        >>> with torch.no_grad():
        ...     _ = model[0].weight.mul_(2)  # noticed, and refused, at the next use
        >>> round(violations(model)["0.weight"], 3)  # |y^T y - I| of y = 2 Q
        5.196
    """
    return {
        name: distance(module, own) for name, module, own, _ in constrained(model, "violations")
    }
