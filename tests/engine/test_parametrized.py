"""Parametrized(x, f): the request's class, a module over x and f without a host module."""

import copy
import pickle

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import Counting, Softened, Symmetric, change, equal, loss_of, naive, skew_exp, tanh_exp


def fresh(w, f):
    value, grad = naive(f, w.x)
    equal(w.y, value)
    equal(torch.autograd.grad(loss_of(w.y), w.x)[0], grad)


@pytest.mark.parametrize("start", [torch.rand, nn.Parameter], ids=["tensor", "parameter"])
def test_members(start):
    tensor = torch.rand(4, 4) if start is torch.rand else nn.Parameter(torch.rand(4, 4))
    w = cp.Parametrized(tensor, skew_exp)
    assert isinstance(w, nn.Module)
    assert isinstance(w.x, nn.Parameter) and w.x.requires_grad
    equal(w.x, tensor)
    equal(w.y, skew_exp(tensor))
    assert w() is w.y
    assert [id(p) for p in w.parameters()] == [id(w.x)]
    fresh(w, skew_exp)


def test_a_parameter_stays_the_same_object():
    x = nn.Parameter(torch.rand(4, 4))
    assert cp.Parametrized(x, skew_exp).x is x


def test_once_per_change():
    counting = Counting(tanh_exp)
    w = cp.Parametrized(torch.rand(4, 5), counting)
    change(w.x)
    counting.reset()
    with torch.no_grad():
        _ = w.y
    for k in range(1, 4):
        (loss_of(w.y) + loss_of(w())).backward()
        assert counting.counts == (1, k)
    assert w.y is w.y


@pytest.mark.parametrize("how", ["w.updated", "w.y.updated"])
def test_telling(how):
    w = cp.Parametrized(torch.rand(4, 4), skew_exp)
    _ = w.y
    w.x.detach().numpy()[0, 1] = 0.3
    (w if how == "w.updated" else w.y).updated()
    fresh(w, skew_exp)


def test_manual():
    w = cp.Parametrized(torch.rand(4, 4), skew_exp, update="manual")
    old = w.y
    change(w.x)
    assert w.y is old
    w.updated()
    fresh(w, skew_exp)


def test_as_part_of_a_model():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = cp.Parametrized(torch.rand(4, 4), skew_exp)
            self.head = nn.Linear(4, 2)

        def forward(self, inputs):
            return self.head(inputs @ self.q.y)

    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(3):
        net(torch.rand(3, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        fresh(net.q, skew_exp)
    twin = copy.deepcopy(net)
    change(twin.q.x)
    fresh(twin.q, skew_exp)
    fresh(net.q, skew_exp)
    other = Net()
    other.load_state_dict(net.state_dict())
    equal(other.q.y, net.q.y)
    again = pickle.loads(pickle.dumps(net.q))
    equal(again.y, net.q.y)


def test_a_module_as_function():
    f = Softened()
    w = cp.Parametrized(torch.rand(4), f)
    assert {id(p) for p in w.parameters()} == {id(w.x), id(f.sharpness)}
    loss_of(w.y).backward()
    assert f.sharpness.grad is not None


def test_assignment():
    w = cp.Parametrized(torch.rand(4, 4).triu(), Symmetric())
    target = torch.rand(4, 4)
    target = target + target.t()
    w.y = target
    equal(w.y, target)
    with pytest.raises(cp.ConstraintViolation):
        w.y = torch.rand(4, 4)
    plain = cp.Parametrized(torch.rand(4), torch.tanh)
    with pytest.raises(cp.NoRightInverse):
        plain.y = torch.zeros(4)


def test_closed_form_rotation():
    """min ||exp(A) a - b||: the angle between two unit vectors of the plane."""
    angle = 0.8
    a = torch.tensor([1.0, 0.0])
    b = torch.tensor([torch.tensor(angle).cos(), torch.tensor(angle).sin()])
    w = cp.Parametrized(torch.zeros(2, 2), skew_exp)
    optimizer = torch.optim.LBFGS(
        w.parameters(), lr=0.5, max_iter=100, tolerance_grad=0, tolerance_change=0
    )

    def closure():
        optimizer.zero_grad()
        loss = (w.y @ a - b).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    # y = [[cos t, sin t], [-sin t, cos t]] with t = x[0, 1], so y a = (cos t, -sin t)
    equal(w.x[0, 1], torch.tensor(-angle), rtol=0, atol=1e-6)
    equal(w.y @ w.y.t(), torch.eye(2), rtol=0, atol=1e-14)


def test_closed_form_trace():
    """max tr(Q^T S) over rotations, S positive definite: Q = I."""
    s = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    w = cp.Parametrized(0.3 * torch.rand(3, 3), skew_exp)
    optimizer = torch.optim.SGD(w.parameters(), lr=0.2)
    for _ in range(200):
        optimizer.zero_grad()
        (-(w.y.t() @ s).trace()).backward()
        optimizer.step()
    equal(w.y, torch.eye(3), rtol=0, atol=1e-9)


def test_wrong_input():
    with pytest.raises(cp.CapturedTensor):
        cp.Parametrized(torch.rand(4), lambda x, s=torch.rand(4, requires_grad=True): x * s)
    with pytest.raises((cp.RegistrationError, RuntimeError), match="floating"):
        cp.Parametrized(torch.zeros(4, dtype=torch.long), torch.tanh)


def test_a_set():
    w = cp.Parametrized(torch.rand(5, 3), cp.Orthogonal())
    equal(w.y.t() @ w.y, torch.eye(3), rtol=0, atol=1e-12)
    change(w.x)
    equal(w.y.t() @ w.y, torch.eye(3), rtol=0, atol=1e-12)
