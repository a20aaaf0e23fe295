"""A second set on a constrained parameter is refused with a reason and the set that is both."""

import pytest
import torch
from torch import nn

from constrainedparams import (
    Ordered,
    Orthogonal,
    Positive,
    PositiveDefinite,
    RegistrationError,
    Simplex,
    Sphere,
    SumToZero,
    Symmetric,
    register_constrained_parameter,
)


@pytest.mark.parametrize("name", ["weight", "_weight_unconstrained"])
@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Ordered(), Simplex(), "A set that is both: Simplex(ordered=True)."),
        (Simplex(), Ordered(), "A set that is both: Simplex(ordered=True)."),
        (SumToZero(), Sphere(), "A set that is both: Sphere(orthogonal_to=[[1, ..., 1]])."),
        (PositiveDefinite(1.0), PositiveDefinite(-1.0, 3.0), "PositiveDefinite(lower, upper)."),
        (
            Orthogonal(),
            Symmetric(),
            "none for these two; Ordered and Simplex: Simplex(ordered=True)",
        ),
    ],
    ids=repr,
)
def test_a_second_set_is_refused_and_the_joint_one_named(one, other, both, name):
    layer = register_constrained_parameter(nn.Linear(3, 3), "weight", one)
    before = layer.weight.detach().clone()
    with pytest.raises(RegistrationError) as caught:
        register_constrained_parameter(layer, name, other)
    text = str(caught.value)
    assert "the map onto the second would take y off the first" in text
    assert both in text
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("other", [torch.tanh, Sphere(2.0)], ids=["a function", "another radius"])
def test_nothing_is_said_of_joint_sets_where_it_would_not_help(other):
    layer = register_constrained_parameter(nn.Linear(3, 3), "weight", Sphere())
    with pytest.raises(RegistrationError, match="already constrained by Sphere") as caught:
        register_constrained_parameter(layer, "weight", other)
    assert "both" not in str(caught.value)
    with pytest.raises(RegistrationError, match="does both"):
        register_constrained_parameter(layer, "_weight_unconstrained", torch.tanh)
    assert Positive() != Sphere()
