"""Writes to y: written through where that is possible, refused otherwise, never lost silently."""

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import (
    Symmetric,
    assert_fresh,
    constrained_linear,
    equal,
    loss_of,
    numbers,
    skew_exp,
)

ROUNDED = {"rtol": 1e-11, "atol": 1e-12}


class Exp(nn.Module):
    """(*s) -> (*s): onto the positive tensors, as a module with right inverse."""

    def forward(self, x):
        return x.exp()

    def right_inverse(self, y):
        return y.log()


def sample(f):
    """A tensor on the set of f."""
    return f(torch.rand(4, 4) - 0.5).detach()


def on(f):
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(sample(f))
    return cp.register_constrained_parameter(layer, "weight", f)


ORTHOGONAL = {"exp": lambda: cp.Orthogonal(), "cayley": lambda: cp.Orthogonal(map="cayley")}
INVERTIBLE = {"callable": Symmetric, "module": Exp}


# Writers: each puts t where y was, in place ---------------------------------------------------
def copy_(layer, t):
    with torch.no_grad():
        layer.weight.copy_(t)


def inference_copy(layer, t):
    with torch.inference_mode():
        layer.weight.copy_(t)


def set_item(layer, t):
    with torch.no_grad():
        layer.weight[:] = t


def data_copy(layer, t):
    layer.weight.data.copy_(t)


def data_iadd(layer, t):
    layer.weight.data += t - layer.weight.detach()


def detach_copy(layer, t):
    layer.weight.detach().copy_(t)


def out_argument(layer, t):
    with torch.no_grad():
        torch.mul(t, 1.0, out=layer.weight)


def by_rows(layer, t):
    with torch.no_grad():
        y = layer.weight
        for row, new in zip(y, t, strict=True):
            row.copy_(new)


WRITERS = {
    f.__name__: f
    for f in (copy_, inference_copy, set_item, data_copy, data_iadd, detach_copy, out_argument,
              by_rows)
}  # fmt: skip


# Uses: each must notice ------------------------------------------------------------------------
def access(layer):
    return layer.weight


def forward(layer):
    return layer(torch.rand(2, 4))


def state_dict(layer):
    return layer.state_dict()


def optimizer_step(layer):
    torch.optim.SGD(layer.parameters(), lr=0.0).step()


USES = {f.__name__: f for f in (access, forward, state_dict, optimizer_step)}


@pytest.mark.parametrize("make", INVERTIBLE.values(), ids=INVERTIBLE)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_on_the_set_is_written_through(make, write, use):
    f = make()
    layer, target = on(f), sample(f)
    _ = layer.weight
    write(layer, target)
    use(layer)
    equal(f(layer._weight_unconstrained), target, **ROUNDED)
    equal(layer.weight, target, **ROUNDED)
    assert_fresh(layer, f, **ROUNDED)


@pytest.mark.parametrize("make", ORTHOGONAL.values(), ids=ORTHOGONAL)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_orthogonal_is_written_through(make, write):
    layer = cp.register_constrained_parameter(nn.Linear(4, 4, bias=False), "weight", make())
    target = sample(skew_exp) @ layer.weight.detach()
    write(layer, target)
    inputs = torch.rand(2, 4)
    equal(layer(inputs), inputs @ target.t(), rtol=0, atol=1e-12)
    (grad,) = torch.autograd.grad(loss_of(layer.weight), layer._weight_unconstrained)
    assert grad.norm() > 0


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("write", [copy_, data_copy, set_item], ids=lambda f: f.__name__)
def test_off_the_set_is_refused(write, use):
    layer = nn.Linear(4, 4, bias=False)
    cp.register_constrained_parameter(layer, "weight", cp.Interval(-1.0, 1.0))
    good, x = layer.weight.detach().clone(), layer._weight_unconstrained.detach().clone()
    bad = good.clone()
    bad[1, 2] = 3.5
    write(layer, bad)
    with pytest.raises(cp.ConstraintViolation) as error:
        use(layer)
    message = str(error.value)
    assert "weight" in message and "Linear" in message
    assert any(abs(n - 2.5) < 1e-3 for n in numbers(message)), message
    assert "project" in message or "Interval" in message
    equal(layer.weight, good)
    equal(layer._weight_unconstrained, x)
    use(layer)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_off_the_set_of_a_callable(use):
    """Without a set the round trip f(g(y)) = y decides."""
    layer = on(Symmetric())
    good, bad = layer.weight.detach().clone(), torch.rand(4, 4)
    copy_(layer, bad)
    with pytest.raises(cp.ConstraintViolation, match="weight"):
        use(layer)
    equal(layer.weight, good)
    assert_fresh(layer, Symmetric())


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_without_right_inverse_any_write_is_refused(use):
    layer = constrained_linear()
    good = layer.weight.detach().clone()
    copy_(layer, sample(skew_exp))
    with pytest.raises(cp.ConstraintError, match="_weight_unconstrained"):
        use(layer)
    equal(layer.weight, good)
    assert_fresh(layer, skew_exp)


def test_nan_is_off_every_set():
    layer = on(Exp())
    good = layer.weight.detach().clone()
    copy_(layer, torch.full((4, 4), float("nan")))
    with pytest.raises(cp.ConstraintError):
        forward(layer)
    equal(layer.weight, good)


def test_an_optimizer_step_takes_the_write_first():
    """x = g(Q) - lr * gradient, as the user who wrote Q before the step expects."""
    f = Symmetric()
    layer = on(f)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    loss_of(layer.weight).backward()
    grad = layer._weight_unconstrained.grad.clone()
    target = sample(f)
    copy_(layer, target)
    optimizer.step()
    equal(layer._weight_unconstrained, f.right_inverse(target) - 0.1 * grad)
    assert_fresh(layer, f)


@pytest.mark.parametrize("f", [skew_exp, Symmetric()], ids=["plain", "invertible"])
def test_a_write_with_grad_mode_on_raises(f):
    layer = on(f)
    good = layer.weight.detach().clone()
    layer.weight.mul_(2.0)
    with pytest.raises(cp.ConstraintError, match="weight"):
        forward(layer)
    equal(layer.weight, good)
    assert_fresh(layer, f)
