"""Writes to y and changes of x together, former values, several uses: who wins, and who complains."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import (
    PackedSymmetric,
    Symmetric,
    assert_fresh,
    change,
    constrained_linear,
    equal,
    loss_of,
    naive,
)


def sample(f):
    return f(torch.rand(4, 4) - 0.5).detach()


def on(f):
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(sample(f))
    return cp.register_constrained_parameter(layer, "weight", f)


def copy_(layer, t):
    with torch.no_grad():
        layer.weight.copy_(t)


def access(layer):
    return layer.weight


def forward(layer):
    return layer(torch.rand(2, 4))


def state_dict(layer):
    return layer.state_dict()


@pytest.mark.parametrize("use", [access, forward, state_dict], ids=lambda f: f.__name__)
def test_both_changed(use):
    f = Symmetric()
    layer = on(f)
    copy_(layer, sample(f))
    change(layer._weight_unconstrained)
    x = layer._weight_unconstrained.detach().clone()
    with pytest.raises(cp.ConstraintError) as error:
        use(layer)
    assert "_weight_unconstrained" in str(error.value)
    equal(layer._weight_unconstrained, x)
    assert_fresh(layer, f)


def test_load_state_dict_after_a_write_wins():
    """The last writer wins where the order is known."""
    f = Symmetric()
    layer, other = on(f), on(f)
    state = other.state_dict()
    copy_(layer, sample(f))
    layer.load_state_dict(state)
    equal(layer.weight, other.weight)


def test_assignment_after_a_write_wins():
    f = Symmetric()
    layer, target = on(f), sample(f)
    copy_(layer, sample(f))
    layer.weight = target
    equal(layer.weight, target)


@pytest.mark.parametrize("mode", ["on", "off"])
def test_a_former_y_is_watched(mode):
    """y is handed out, x changes, a new y is handed out, then the user writes into the old one."""
    layer = on(Symmetric())
    former = layer.weight
    change(layer._weight_unconstrained)
    current = layer.weight
    assert current is not former
    kept = current.detach().clone()
    with torch.no_grad():
        former.copy_(sample(Symmetric()) if mode == "on" else torch.rand(4, 4))
    with pytest.raises(cp.ConstraintError, match="weight"):
        forward(layer)
    equal(layer.weight, kept)
    assert_fresh(layer, Symmetric())


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.LBFGS])
def test_a_write_within_a_closure_is_not_lost_silently(kind):
    """The step moves x as well, so that nothing tells which of the two should hold."""
    layer = on(Symmetric())
    optimizer = kind(layer.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = layer.weight.square().sum()
        loss.backward()
        copy_(layer, sample(Symmetric()))
        return loss

    with pytest.raises(cp.ConstraintViolation, match="both"):
        optimizer.step(closure)
    assert_fresh(layer, Symmetric())


def test_a_write_after_the_optimizer_emptied_the_slot():
    """The y of before the step is a former y as well, although no new one exists yet."""
    layer = on(Symmetric())
    former = layer.weight
    loss_of(former).backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    with torch.no_grad():
        former.add_(1.0)
    with pytest.raises(cp.ConstraintError, match="weight"):
        forward(layer)
    assert_fresh(layer, Symmetric())


def test_the_last_good_value_survives_a_pending_backward():
    """y shares no memory with the private graph: what f saved is intact."""
    layer = constrained_linear(torch.exp)
    x = layer._weight_unconstrained
    copy_(layer, torch.ones(4, 4))
    with pytest.raises(cp.ConstraintError):
        forward(layer)
    loss_of(layer.weight).backward()
    equal(x.grad, naive(torch.exp, x)[1])


def test_a_backward_that_needs_the_overwritten_y_raises():
    layer = on(Symmetric())
    loss = layer.weight.square().sum()
    copy_(layer, sample(Symmetric()))
    with pytest.raises(RuntimeError):
        loss.backward()


def test_another_shape_of_x():
    f = PackedSymmetric(4)
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
    cp.register_constrained_parameter(layer, "weight", f)
    assert layer._weight_unconstrained.shape == (10,)
    target = torch.rand(4, 4)
    target = target + target.t()
    copy_(layer, target)
    equal(layer.weight, target)
    assert_fresh(layer, f)
    layer.weight = torch.eye(4)
    assert_fresh(layer, f)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "copy": copy.copy,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copied_module_takes_its_write_along(copied):
    f = Symmetric()
    layer, target = on(f), sample(f)
    copy_(layer, target)
    twin = copied(layer)
    equal(twin.weight, target)
    equal(layer.weight, target)


def test_reading_through_a_saved_state_after_a_write():
    f = Symmetric()
    layer, target, file = on(f), sample(f), io.BytesIO()
    copy_(layer, target)
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = on(f)
    other.load_state_dict(torch.load(file, weights_only=True))
    equal(other.weight, target)


def test_a_write_does_not_reach_what_f_saved():
    """The derivative of exp needs exp(x): it must not be the memory that was handed out."""
    layer = constrained_linear(torch.exp)
    x = layer._weight_unconstrained
    loss = layer.weight.sum()
    copy_(layer, torch.full((4, 4), 7.0))
    loss.backward()
    equal(x.grad, x.exp())
    with pytest.raises(cp.ConstraintError):
        forward(layer)
    equal(layer.weight, x.exp())


def test_the_last_good_value_of_a_random_f_is_the_same_draw():
    layer = constrained_linear(lambda x: x + torch.rand_like(x))
    good = layer.weight.detach().clone()
    copy_(layer, torch.ones(4, 4))
    with pytest.raises(cp.ConstraintError):
        forward(layer)
    equal(layer.weight, good)
    loss_of(layer.weight).backward()
    equal(layer.weight, good)


def test_telling_that_x_changed_does_not_lose_a_write_silently():
    """The value written into y is taken over, or somebody hears of it."""
    f = Symmetric()
    layer, target = on(f), sample(f)
    copy_(layer, target)
    try:
        cp.updated(layer)
        forward(layer)
    except cp.ConstraintError:
        assert_fresh(layer, f)
    else:
        equal(layer.weight, target)
