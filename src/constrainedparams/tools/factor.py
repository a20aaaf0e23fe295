"""The factors of a constrained matrix."""

from torch import Tensor, nn

from ..attach.checkpoints import mend
from ..core.tensors import raw_name, state_of
from ..errors import ConstraintError
from ..functions.describe import describe
from ..sets.contract import Constraint
from .queries import slot_of


def factor(module: nn.Module, name: str) -> dict[str, Tensor]:
    """The matrices that make ``module.name``, by name, without a factorisation of it.

    Covariances have their Cholesky factor, invertible matrices Q, R and log |det y|, matrices of
    low rank their two parts: :meth:`Constraint.factors` says which. They are made from x as it is
    now, and gradients in them reach x beside those in y.

    Args:
        module, name: a constrained parameter whose function is a set.

    Raises:
        ConstraintError: the function is no set, its map is no product, or the value is set by
            ``temporarily``.
        RegistrationError: nothing is constrained under this name.

    Example:
        >>> import torch
        >>> from constrainedparams import Parametrized, PositiveDefinite, factor
        >>> w = Parametrized(torch.eye(2), PositiveDefinite())
        >>> parts = factor(w, "y")
        >>> torch.allclose(parts["cholesky"] @ parts["cholesky"].mT, w.y)
        True
        >>> white = torch.linalg.solve_triangular(parts["cholesky"], torch.ones(2, 1), upper=False)
        >>> (0.5 * white.square().sum() + 0.5 * parts["logdet"]).backward()  # of a normal density
        >>> bool(w.x.grad.abs().sum() > 0)
        True
    """
    slot = slot_of(module, name)
    where = slot.where(module)
    if not isinstance(slot.function, Constraint):
        raise ConstraintError(
            f"{where} is made by {describe(slot.function)}, which is no set, so its factors are "
            "not known. Have an nn.Module compute and keep them, or use a set such as "
            "PositiveDefinite()."
        )
    if slot.override:
        raise ConstraintError(
            f"{where} is set by `temporarily` now, and x does not make it. Ask after the block."
        )
    slot.settle(module)
    mend(module, slot)
    x: Tensor = getattr(module, raw_name(slot.name_in(module)))
    return slot.function.factors(x, **state_of(module, slot.name_in(module), slot.state_names))
