"""retract: other coordinates, the same y; and no drift however often it is called."""

import pytest
import torch
from torch import nn

import constrainedparams as cp
from constrainedparams import (
    CholeskyFactor,
    Constraint,
    ConstraintViolation,
    Grassmann,
    Interval,
    Invertible,
    Orthogonal,
    PendingGradients,
    RegistrationError,
    Simplex,
    Sphere,
    retract,
)

SETS = {
    "exp": (Orthogonal(), (4, 4)),
    "cayley": (Orthogonal("cayley"), (4, 4)),
    "tall": (Orthogonal(), (5, 3)),
    "wide": (Orthogonal(), (3, 5)),
    "reflectors": (Orthogonal("householder"), (5, 3)),
    "grassmann": (Grassmann(), (5, 2)),
    "invertible": (Invertible(), (4, 4)),
    "sphere": (Sphere(2.0), (4, 3)),
    "simplex": (Simplex(), (4, 3)),
    "interval": (Interval(-1.0, 1.0), (4, 3)),
    "no_set": (torch.tanh, (4, 3)),
}
REBASED = ("exp", "cayley", "tall", "wide", "grassmann")
UNCHANGED = ("interval", "no_set")


def moved(name, **options):
    """A layer some steps of an optimiser away from where it was registered."""
    function, shape = SETS[name]
    layer = nn.Linear(shape[1], shape[0], bias=False)
    cp.register_constrained_parameter(layer, "weight", function, **options)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3, momentum=0.9)
    target = torch.randn(shape)
    for _ in range(4):
        optimizer.zero_grad()
        (layer.weight * target).sum().backward()
        optimizer.step()
    return layer, optimizer


def evaluations(layer):
    return cp.statistics(layer)["weight"].evaluations


@pytest.mark.parametrize("update", ["auto", "manual", "verified"])
@pytest.mark.parametrize("name", SETS)
def test_y_stays_and_coordinates_change(name, update):
    layer, optimizer = moved(name, update=update)
    cp.updated(layer)
    x = layer._weight_unconstrained
    y, before, ran = layer.weight.detach().clone(), x.detach().clone(), evaluations(layer)
    momentum = {k: v.clone() for k, v in optimizer.state[x].items() if torch.is_tensor(v)}
    retract(layer)
    assert layer._weight_unconstrained is x
    torch.testing.assert_close(layer.weight.detach().clone(), y, rtol=0, atol=1e-12)
    assert torch.equal(x, before) == (name in UNCHANGED)
    assert evaluations(layer) == ran + (name not in UNCHANGED)
    assert (x.detach().count_nonzero() == 0) == (name in REBASED)
    for key, value in momentum.items():
        assert torch.equal(optimizer.state[x][key], value)


@pytest.mark.parametrize("name", ["exp", "cayley", "tall", "sphere"])
def test_training_goes_on_and_the_derivative_is_that_of_the_new_coordinates(name):
    layer, optimizer = moved(name)
    retract(layer)
    function, x = SETS[name][0], layer._weight_unconstrained
    assert isinstance(function, Constraint)
    state = {k: layer._buffers[f"_weight_{k}"] for k in function.state_names}
    free = x.detach().clone().requires_grad_()
    function(free, **state).sin().sum().backward()
    optimizer.zero_grad()
    layer.weight.sin().sum().backward()
    torch.testing.assert_close(x.grad, free.grad)
    before = layer.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(layer.weight, before)
    assert bool(function.contains(layer.weight).all())


def test_a_whole_model_with_tied_frozen_and_free_parameters():
    model = nn.ModuleDict({key: nn.Linear(4, 4) for key in ("first", "tied", "frozen", "free")})
    cp.register_constrained_parameter(model["first"], "weight", Orthogonal())
    cp.share_constrained_parameter(model["first"], "weight", model["tied"])
    cp.register_constrained_parameter(model["frozen"], "weight", CholeskyFactor())
    model["frozen"].requires_grad_(False)
    with torch.no_grad():
        model["first"]._weight_unconstrained.normal_()
    before = {name: module.weight.detach().clone() for name, module in model.items()}
    retract(model)
    for name, module in model.items():
        torch.testing.assert_close(module.weight.detach().clone(), before[name], rtol=0, atol=1e-12)
    assert model["tied"].weight is model["first"].weight
    assert model["tied"]._weight_base is model["first"]._weight_base
    assert model["first"]._weight_unconstrained.count_nonzero() == 0


def test_a_checkpoint_after_it_and_a_copy_are_independent():
    layer, _ = moved("exp")
    saved = {k: v.clone() for k, v in layer.state_dict().items()}
    want = layer.weight.detach().clone()
    retract(layer)
    other, _ = moved("exp")
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other.weight.detach().clone(), want, rtol=0, atol=1e-12)
    other.load_state_dict(saved)
    torch.testing.assert_close(other.weight.detach().clone(), want, rtol=0, atol=1e-12)


def test_a_loss_of_before_cannot_be_pulled_back_after():
    layer, _ = moved("exp")
    loss = layer.weight.sin().sum()
    retract(layer)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


@pytest.mark.parametrize("wrong", ["pending", "written", "nan", "no_module"])
def test_refused_with_the_remedy_and_nothing_lost(wrong):
    layer, _ = moved("exp")
    x, model = layer._weight_unconstrained, layer
    error, says = ConstraintViolation, "project"
    if wrong == "pending":
        with cp.deferred_pullback(layer):
            layer.weight.sum().backward()
        error, says = PendingGradients, "discard"
    elif wrong == "written":
        with torch.no_grad():
            layer.weight.mul_(2.0)
    elif wrong == "nan":
        with torch.no_grad():
            x[0, 1] = x[1, 0] = torch.nan
        says = "Load the last good checkpoint"
    else:
        model, error, says = [layer], RegistrationError, "expected an nn.Module"
    before = {k: v.clone() for k, v in (("x", x), ("base", layer._weight_base))}
    with pytest.raises(error, match=says):
        retract(model)
    for key, tensor in (("x", x), ("base", layer._weight_base)):
        torch.testing.assert_close(tensor.detach(), before[key], equal_nan=True, rtol=0, atol=0)


def test_meta_is_left_alone():
    layer, _ = moved("exp")
    layer.to("meta")
    retract(layer)
    assert layer._weight_unconstrained.is_meta


# Peers that take a new base at every step in float32 raise an off-manifold error at steps 216, 291,
# 602 of these three, and one drifts to 8.8e-3 in 5,000 steps.
DRIFT = {"512x32 exp": (512, 32, "exp", 230), "64 cayley": (64, 64, "cayley", 610)}


@pytest.mark.parametrize("case", DRIFT.values(), ids=DRIFT)
def test_a_new_base_at_every_step_does_not_drift(case):
    n, k, kind, steps = case
    w = cp.Parametrized(torch.randn(n, k, dtype=torch.float32), Orthogonal(kind))
    optimizer = torch.optim.Adam(w.parameters(), lr=1e-2)
    target = torch.randn(n, k, dtype=torch.float32)
    early = 0.0
    for step in range(steps):
        optimizer.zero_grad()
        (w.y * target).sum().backward()
        optimizer.step()
        retract(w)
        if step < 5:
            early = max(early, cp.violations(w)["y"])
    y = w.y.detach().double()
    off = float((y.mT @ y - torch.eye(k)).norm())
    assert off <= 2 * early + 2e-7 * k**0.5, (off, early)


@pytest.mark.parametrize("kind", ["exp", "cayley"])
def test_without_a_new_base_the_distance_does_not_follow_the_size_of_x(kind):
    """Peers grow from 3e-6 to 2.6e-5 at this size."""
    w = cp.Parametrized(torch.randn(64, 64, dtype=torch.float32), Orthogonal(kind))
    optimizer = torch.optim.Adam(w.parameters(), lr=0.05)
    for step in range(200):
        optimizer.zero_grad()
        target = torch.randn(64, 64, generator=torch.Generator().manual_seed(step // 50))
        (w.y * target.float()).sum().backward()
        optimizer.step()
    y = w.y.detach().double()
    assert float(w.x.detach().norm()) > 10
    assert float((y.mT @ y - torch.eye(64)).norm()) < 2e-6
