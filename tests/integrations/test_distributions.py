"""torch.distributions: the same members there and back, transforms with the right Jacobian."""

import math
import re

import pytest
import torch
from torch.distributions import (
    Dirichlet,
    LKJCholesky,
    Normal,
    TransformedDistribution,
    biject_to,
    constraints,
    transform_to,
)
from torch.distributions import transforms as T

import constrainedparams as cp
from constrainedparams import ConstraintError, OptionError, from_distributions, to_distributions
from constrainedparams.sets.contract import has_option
from constrainedparams.testing import ROWS

BOUND = torch.tensor([0.0, -2.0, 0.5])
PAIRS = [
    (constraints.positive, cp.Positive()),
    (constraints.nonnegative, cp.NonNegative()),
    (constraints.greater_than(2.0), cp.GreaterThan(2.0)),
    (constraints.greater_than_eq(-1.5), cp.GreaterThan(-1.5, closed=True)),
    (constraints.greater_than_eq(BOUND), cp.GreaterThan(BOUND, closed=True)),
    (constraints.less_than(3.0), cp.LessThan(3.0)),
    (constraints.half_open_interval(-1.0, 2.0), cp.Interval(-1.0, 2.0, closed="left")),
    (constraints.half_open_interval(BOUND, 2.0), cp.Interval(BOUND, 2.0, closed="left")),
    (constraints.interval(-1.0, 2.0), cp.Interval(-1.0, 2.0, closed=True)),
    (constraints.unit_interval, cp.Interval(0.0, 1.0, closed=True)),
    (constraints.simplex, cp.Simplex(closed=True)),
    (constraints.lower_triangular, cp.LowerTriangular()),
    (constraints.lower_cholesky, cp.CholeskyFactor()),
    (constraints.corr_cholesky, cp.CorrelationCholesky()),
    (constraints.symmetric, cp.Symmetric()),
    (constraints.positive_semidefinite, cp.PositiveSemidefinite()),
    (constraints.positive_definite, cp.PositiveDefinite()),
]
IDS = [repr(pair[0]) for pair in PAIRS]


@pytest.mark.parametrize(("theirs", "ours"), PAIRS, ids=IDS)
def test_the_set_of_a_constraint(theirs, ours):
    assert from_distributions(theirs) == ours
    assert from_distributions(constraints.independent(theirs, 1)) == ours


@pytest.mark.parametrize(("theirs", "ours"), PAIRS, ids=IDS)
def test_the_same_members(theirs, ours):
    """Samples of ours are members of theirs; what theirs makes of noise is a member of ours."""
    torch.manual_seed(0)
    shape = (5, 3, 3) if ours.event_dim == 2 else (5, 3)
    y = ours.sample(shape, dtype=torch.float64)
    # Theirs compare entries with eps of their own: 1e-6 in positive_semidefinite and symmetric.
    assert bool(theirs.check(y).all())
    try:
        reached = transform_to(theirs)(torch.randn(shape, dtype=torch.float64))
    except NotImplementedError:
        return  # symmetric and lower_triangular have a check and no map there
    if reached.shape == shape:
        assert bool(ours.contains(reached, atol=1e-9).all())


@pytest.mark.parametrize(
    ("theirs", "bound"),
    [
        (constraints.positive, [0.0, 1.0]),
        (constraints.nonnegative, [0.0, -1e-3]),
        (constraints.greater_than(2.0), [2.0, 2.5]),
        (constraints.less_than(3.0), [3.0, 2.5]),
        (constraints.unit_interval, [0.0, 1.0, 1.5]),
        (constraints.greater_than_eq(2.0), [2.0, 2.5, 2.0 - 1e-9]),
        (constraints.half_open_interval(-1.0, 2.0), [-1.0, 0.0, 2.0, 2.0 - 1e-9, -1.0 - 1e-9]),
    ],
    ids=repr,
)
def test_the_bound_belongs_where_it_does_there(theirs, bound):
    y = torch.tensor(bound, dtype=torch.float64)
    assert from_distributions(theirs).contains(y).tolist() == theirs.check(y).tolist()


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        (constraints.boolean, "discrete"),
        (constraints.one_hot, "discrete"),
        (constraints.nonnegative_integer, "discrete"),
        (constraints.integer_interval(0, 3), "discrete"),
        (constraints.multinomial(3), "discrete"),
        (constraints.real, "nothing to constrain"),
        (constraints.real_vector, "nothing to constrain"),
        (constraints.square, "nothing to constrain"),
        (constraints.cat([constraints.positive]), "parameter of its own"),
        (constraints.stack([constraints.positive]), "parameter of its own"),
        (constraints.dependent, "instance.support"),
        (Normal, r"Give its `\.support`"),
        (Dirichlet(torch.ones(3)), r"Give its `\.support`"),
        ("positive", "expected a constraint"),
        (constraints.interval, r"expected an instance, such as `constraints\.interval"),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_refused_with_a_reason(theirs, why):
    with pytest.raises(OptionError, match=why):
        from_distributions(theirs)


DISTRIBUTIONS = [
    cls
    for cls in (getattr(torch.distributions, name) for name in torch.distributions.__all__)
    if isinstance(cls, type) and issubclass(cls, torch.distributions.Distribution)
]


def answer(theirs):
    """The set, or why there is none."""
    try:
        return from_distributions(theirs)
    except OptionError as refusal:
        return str(refusal)


@pytest.mark.parametrize("cls", DISTRIBUTIONS, ids=lambda cls: cls.__name__)
def test_every_constraint_of_a_distribution_is_a_set_or_refused_for_what_it_is(cls):
    """Of its parameters, and of its values where no parameter decides."""
    known = [cls.support, *getattr(cls.arg_constraints, "values", list)()]
    for found in (answer(c) for c in known if isinstance(c, constraints.Constraint)):
        reason = re.search("nothing to constrain|discrete|only an instance", str(found))
        assert isinstance(found, cp.Constraint) or reason, found


@pytest.mark.parametrize(("theirs", "ours"), PAIRS, ids=IDS)
def test_there_and_back(theirs, ours):
    support = to_distributions(ours)
    assert from_distributions(support) is ours
    assert support == to_distributions(ours)
    shape = (4, 3, 3) if ours.event_dim == 2 else (4, 3)
    y = ours.sample(shape, dtype=torch.float64)
    assert support.check(y).shape == shape[: len(shape) - support.event_dim]
    transform = transform_to(support)
    assert torch.allclose(transform(transform.inv(y)), y)
    assert tuple(transform.inverse_shape(shape)) == ours.unconstrained_shape(shape)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (cp.Interval(0.0, 1.0), T.SigmoidTransform()),
        (cp.Positive(), T.SoftplusTransform()),
    ],
    ids=repr,
)
def test_the_density_of_a_transformed_normal(ours, theirs):
    base = Normal(torch.zeros(3, dtype=torch.float64), 1.0)
    y = ours.sample((7, 3), dtype=torch.float64)
    found = TransformedDistribution(base, [biject_to(to_distributions(ours))]).log_prob(y)
    assert torch.allclose(found, TransformedDistribution(base, [theirs]).log_prob(y))


def last_axes(row):
    """Whether the elements lie along the last axes, and f is a function of x alone."""
    c = row.constraint
    return not c.state_names and c.view is None and not (has_option(c, "dim") and c.dim != -1)


@pytest.mark.parametrize("row", [row for row in ROWS if last_axes(row)], ids=str)
def test_shapes_in_a_density_are_those_that_torch_expects(row):
    """A batch of normal x: one density for each, and an event is one element of the set."""
    transform = transform_to(to_distributions(row.constraint))
    y = row.constraint.sample((4, *row.shape), dtype=torch.float64)
    x = transform.inv(y)
    assert transform.forward_shape(x.shape) == y.shape
    assert transform.inverse_shape(y.shape) == x.shape
    assert transform.domain.event_dim == x.ndim - (y.ndim - transform.codomain.event_dim)
    density = TransformedDistribution(Normal(torch.zeros_like(x), 1.0), [transform])
    assert density.sample().shape == density.batch_shape + density.event_shape == y.shape
    assert len(density.event_shape) == transform.codomain.event_dim
    if len(row.shape) == transform.codomain.event_dim:
        assert density.batch_shape == (4,)


@pytest.mark.parametrize("ours", [cp.Ball(), cp.Ball(2.0, 1), cp.PoincareBall()], ids=repr)
def test_the_density_of_a_vector_in_a_ball(ours):
    base = Normal(torch.zeros(3, dtype=torch.float64), 1.0)
    y = ours.sample((7, 3), dtype=torch.float64)
    found = TransformedDistribution(base, [biject_to(to_distributions(ours))]).log_prob(y)
    for one, value in zip(y, found, strict=True):
        x = ours.right_inverse(one)
        slope = torch.autograd.functional.jacobian(ours, x)
        assert torch.allclose(value, base.log_prob(x).sum() - torch.linalg.slogdet(slope)[1])


def test_a_transform_of_matrices_in_a_density():
    """Wishart matrices: minus the integral of the density over x is what it is over y."""
    ours = cp.PositiveDefinite()
    x = torch.randn(3, 3, dtype=torch.float64)
    transform = transform_to(to_distributions(ours))
    found = transform.log_abs_det_jacobian(x, transform(x))
    rows, columns = torch.tril_indices(3, 3)

    def triangle(entries):
        full = torch.zeros(3, 3, dtype=torch.float64).index_put((rows, columns), entries)
        return ours(full)[rows, columns]

    jacobian = torch.autograd.functional.jacobian(triangle, x[rows, columns])
    assert math.isclose(float(found), float(torch.linalg.slogdet(jacobian)[1]), rel_tol=1e-10)


def test_no_bijection_where_entries_are_not_read():
    transform = biject_to(to_distributions(cp.PositiveDefinite()))
    with pytest.raises(ConstraintError, match="reads 6 of the 9 entries"):
        transform(torch.zeros(3, 3))
    with pytest.raises(NotImplementedError, match="not one-to-one"):
        biject_to(to_distributions(cp.NonNegative()))


def test_what_has_no_word_there():
    with pytest.raises(OptionError, match="remembers base"):
        to_distributions(cp.Orthogonal())
    with pytest.raises(OptionError, match="expected a set"):
        to_distributions(torch.tanh)
    with pytest.raises(ConstraintError, match="move the axes"):
        transform_to(to_distributions(cp.Sphere(dim=0)))
    with pytest.raises(ConstraintError, match="move the axes"):
        transform_to(to_distributions(cp.Sphere(dim=None)))


def test_the_argument_constraints_of_a_distribution():
    """A model that learns the parameters of a distribution of torch, whatever they are."""
    names = {"loc": torch.zeros(2), "covariance_matrix": torch.eye(2)}
    kinds = torch.distributions.MultivariateNormal.arg_constraints
    parameters = {
        name: cp.Parametrized(value, from_distributions(kinds[name]))
        for name, value in names.items()
        if name != "loc"
    }
    distribution = torch.distributions.MultivariateNormal(
        names["loc"], parameters["covariance_matrix"].y
    )
    distribution.log_prob(torch.ones(2)).backward()
    assert parameters["covariance_matrix"].x.grad.abs().sum() > 0
    assert from_distributions(LKJCholesky(3, 1.0).support) == cp.CorrelationCholesky()
