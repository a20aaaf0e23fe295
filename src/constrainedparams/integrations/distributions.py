"""torch.distributions and Pyro: their constraints as sets, our sets as their constraints."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, biject_to, constraints, transform_to
from torch.distributions.transforms import Transform

from .. import sets
from ..errors import ConstraintError, OptionError, ShapeError
from ..sets.contract import Constraint, has_option

__all__ = ["SetTransform", "Support", "from_distributions", "to_distributions"]


# their constraints as sets ----------------------------------------------------------------------


def _from(bound: Any, closed: bool) -> Constraint:
    """Numbers above ``bound``."""
    if not isinstance(bound, Tensor) and bound == 0:
        return sets.NonNegative() if closed else sets.Positive()
    return sets.GreaterThan(bound, closed=closed)


# By the name of their class: no system is imported to be asked. Pyro adds to those of torch.
_SETS: dict[str, Callable[[Any], Constraint]] = {
    "_GreaterThan": lambda c: _from(c.lower_bound, closed=False),
    "_GreaterThanEq": lambda c: _from(c.lower_bound, closed=True),
    "_LessThan": lambda c: sets.LessThan(c.upper_bound),
    "_Interval": lambda c: sets.Interval(c.lower_bound, c.upper_bound, closed=True),
    "_HalfOpenInterval": lambda c: sets.Interval(c.lower_bound, c.upper_bound, closed="left"),
    "_Simplex": lambda _: sets.Simplex(closed=True),
    "_LowerTriangular": lambda _: sets.LowerTriangular(),
    "_LowerCholesky": lambda _: sets.CholeskyFactor(),
    "_CorrCholesky": lambda _: sets.CorrelationCholesky(),
    "_Symmetric": lambda _: sets.Symmetric(),
    "_PositiveSemidefinite": lambda _: sets.PositiveSemidefinite(),
    "_PositiveDefinite": lambda _: sets.PositiveDefinite(),
    "_SoftplusPositive": lambda _: sets.Positive(),
    "_SoftplusLowerCholesky": lambda _: sets.CholeskyFactor(),
    "_UnitLowerCholesky": lambda _: sets.LowerTriangular(diagonal=1.0),
    "_CorrMatrix": lambda _: sets.Correlation(),
    "_OrderedVector": lambda _: sets.Ordered(),
    "_PositiveOrderedVector": lambda _: sets.PositiveOrdered(),
    "_Sphere": lambda _: sets.Sphere(),
}

_FREE = "every tensor is a member, so that there is nothing to constrain"
_PARTS = "one parameter has one set. Make each part a parameter of its own"
_REFUSED = {
    "_Real": _FREE,
    "_Square": _FREE,
    "_Cat": _PARTS,
    "_Stack": _PARTS,
    "_Dependent": "only an instance knows it. Use `instance.support`",
    "_DependentProperty": "only an instance knows it. Use `instance.support`",
}


def from_distributions(constraint: Any) -> Constraint:
    """The set that has the members of a ``torch.distributions`` constraint, or of one of Pyro's.

    Closed where theirs is: ``unit_interval`` contains 0 and 1, and so does the set; their
    ``transform_to`` reaches the inside only, which is ``Interval(0, 1)``.

    Args:
        constraint: such as ``constraints.positive``, ``dist.support`` or an entry of
            ``dist.arg_constraints``; ``independent`` counts as what it repeats. What
            :func:`to_distributions` made gives its set back.

    Raises:
        OptionError: there is no such set, with the reason.

    Example:
        >>> from torch.distributions import Dirichlet, Normal, constraints
        >>> from constrainedparams import from_distributions
        >>> from_distributions(Normal.arg_constraints["scale"])
        Positive()
        >>> from_distributions(constraints.interval(-1.0, 2.0))
        Interval(lower=-1.0, upper=2.0, closed=True)
        >>> from_distributions(Dirichlet.support)
        Simplex(closed=True)
    """
    if isinstance(constraint, Support):
        return constraint.set
    if isinstance(constraint, constraints.independent | constraints.MixtureSameFamilyConstraint):
        return from_distributions(constraint.base_constraint)
    name = type(constraint).__name__
    if isinstance(constraint, constraints.Constraint) and name in _SETS:
        return _SETS[name](constraint)
    if name in _REFUSED:
        reason = _REFUSED[name]
    elif getattr(constraint, "is_discrete", False) is True:
        reason = "its members are discrete, and no differentiable map leads from one to another"
    elif isinstance(constraint, Distribution) or (
        isinstance(constraint, type) and issubclass(constraint, Distribution)
    ):
        reason = "it is a distribution; expected a constraint of one. Give its `.support`"
    elif isinstance(constraint, type) and issubclass(constraint, constraints.Constraint):
        reason = "it is a class; expected an instance, such as `constraints.interval(0.0, 1.0)`"
    else:
        reason = (
            "expected a constraint of torch.distributions or Pyro. For one of your own write a "
            "set, a class derived from Constraint"
        )
    raise OptionError(f"there is no set for {constraint!r}: {reason}.")


# our sets as their constraints ------------------------------------------------------------------


class Support(constraints.Constraint):
    """A set as a constraint of ``torch.distributions``; :func:`to_distributions` makes it."""

    def __init__(self, set_: Constraint):
        self.set = set_
        super().__init__()

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        """How many last axes are one element."""
        vectors = has_option(self.set, "dim")
        if (vectors and self.set.dim != -1) or self.set.view not in (None, "batch"):
            raise ConstraintError(
                f"{self.set!r} reads other axes than the last ones, which torch.distributions has "
                "no word for. Use the set without view= and dim=, and move the axes."
            )
        return 1 if vectors else self.set.event_dim

    def check(self, value: Tensor) -> Tensor:
        return self.set.contains(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Support) and other.set == self.set

    def __hash__(self) -> int:
        return hash(self.set)

    def __repr__(self) -> str:
        return f"to_distributions({self.set!r})"


def to_distributions(constraint: Constraint) -> Support:
    """A set as a constraint of ``torch.distributions``, for everything that takes one.

    ``transform_to`` of it is f with its right inverse, and ``log_abs_det_jacobian`` where the set
    has one; so ``pyro.param(name, value, constraint=to_distributions(...))`` keeps ``value`` on the
    set. ``biject_to`` (for HMC) is the same where f is one-to-one and reads every entry of x.

    Args:
        constraint: a set whose map remembers nothing (``state_names`` is empty); of those with a
            base the map ``"polar"``. The last axes are its elements.

    Raises:
        OptionError: no set, or one whose map has state: a transform is a function alone.

    Example:
        >>> import torch
        >>> from torch.distributions import transform_to
        >>> from constrainedparams import PositiveDefinite, to_distributions
        >>> transform = transform_to(to_distributions(PositiveDefinite()))
        >>> y = transform(torch.randn(3, 3))
        >>> torch.allclose(transform(transform.inv(y)), y, atol=1e-5)
        True
    """
    if not isinstance(constraint, Constraint):
        raise OptionError(
            f"to_distributions got {constraint!r}; expected a set, an instance such as Positive()."
        )
    if constraint.state_names:
        raise OptionError(
            f"{constraint!r} remembers {', '.join(constraint.state_names)} beside x, and a "
            'transform has no place for it. Use a map without it (map="polar", where the set has '
            "one), or register the set on a module."
        )
    return Support(constraint)


def _axes_of_x(support: Support) -> int:
    """How many last axes of x make one element: those of y, but for quaternions."""
    axes = support.event_dim
    with contextlib.suppress(ShapeError):  # 3 is no length for every set; x of those is like y
        return len(support.set.unconstrained_shape((3,) * axes))
    return axes


class SetTransform(Transform):
    """f and its right inverse as a ``torch.distributions`` transform."""

    def __init__(self, support: Support, cache_size: int = 0):
        super().__init__(cache_size=cache_size)
        self.support = self.codomain = support
        self.domain = constraints.independent(constraints.real, _axes_of_x(support))
        self.bijective = support.set.one_to_one

    def _call(self, x: Tensor) -> Tensor:
        return self.support.set(x)

    def _inverse(self, y: Tensor) -> Tensor:
        found = self.support.set.right_inverse(y)
        assert isinstance(found, Tensor)
        return found

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """log |det df/dx| over the entries of x that f reads, one number for each element."""
        return self.support.set.log_abs_det_jacobian(x)

    def forward_shape(self, shape: Any) -> torch.Size:
        found = self.support.set._constrained_shape(tuple(shape))
        self.support.set.check_shape(found)
        return torch.Size(found)

    def inverse_shape(self, shape: Any) -> torch.Size:
        return torch.Size(self.support.set.unconstrained_shape(tuple(shape)))

    def with_cache(self, cache_size: int = 1) -> "SetTransform":
        same = cache_size == self._cache_size
        return self if same else type(self)(self.support, cache_size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SetTransform) and other.support == self.support

    def __hash__(self) -> int:
        return hash(self.support)


class _Bijection(SetTransform):
    """Every entry of x counts: a flat direction would make a posterior improper."""

    def _call(self, x: Tensor) -> Tensor:
        y = super()._call(x)
        read = self.support.set.dimension(tuple(y.shape))
        if read != x.numel():
            raise ConstraintError(
                f"biject_to({self.support!r}): f reads {read} of the {x.numel()} entries of x, so "
                "it is no bijection of all of them. Use transform_to, or a set of numbers."
            )
        return y


def _bijection(support: Support) -> Transform:
    if not support.set.one_to_one:
        raise NotImplementedError(
            f"{support.set!r}: its map is not one-to-one. Use transform_to, or another map."
        )
    return _Bijection(support)


transform_to.register(Support, SetTransform)
biject_to.register(Support, _bijection)
