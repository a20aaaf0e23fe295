"""The feature request of github.com/pytorch/pytorch/issues/28937, sentence by sentence, executed.

    python examples/the_request.py

Each section quotes what the request asks for, runs it, checks it and prints what came out.
"""

import torch
from torch import nn

from constrainedparams import (
    ConstrainedModule,
    ConstraintError,
    Parametrized,
    extend_nn_module,
    register_constrained_parameter,
    temporarily,
)


# The five maps, as plain callables -----------------------------------------------------------
def orthogonal(x):
    """(n, n) -> (n, n): exp of a skew-symmetric matrix is orthogonal with determinant 1."""
    aux = x.triu(diagonal=1)
    aux = aux - aux.t()
    return torch.matrix_exp(aux)


def positive_definite(x):
    """(n, n) -> (n, n): L L^T, the diagonal of L positive."""
    lower = x.tril(diagonal=-1) + x.diagonal().exp().diag()
    return lower @ lower.t()


def powers(x):
    """() or (1,) -> (4,): a number gives a vector."""
    return x ** torch.arange(1.0, 5.0)


MAPS = {
    "exp of a skew-symmetric matrix": (orthogonal, torch.rand(4, 4)),
    "L L^T with a positive diagonal": (positive_definite, torch.rand(4, 4)),
    "tanh": (torch.tanh, torch.rand(4, 5)),
    "relu": (torch.relu, torch.randn(4, 5)),
    "a number to a vector": (powers, torch.tensor(0.5)),
}


class Counted:
    """A function that counts its calls: the request is about how often f runs."""

    def __init__(self, f):
        self.f, self.calls = f, 0

    def __call__(self, x):
        self.calls += 1
        return self.f(x)


def heading(text):
    print(f"\n{text}\n{'-' * len(text)}")


def five_maps():
    heading("y = f(x), f computed once however often y is read")
    for name, (f, start) in MAPS.items():
        counted = Counted(f)
        w = Parametrized(start, counted)
        optimizer = torch.optim.SGD(w.parameters(), lr=1e-4)
        for _ in range(5):
            before = counted.calls
            loss = sum(w.y.square().sum() for _ in range(100))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert counted.calls - before <= 1
        assert torch.equal(w.y, f(w.x))
        print(f"{name:32}  5 steps of 100 reads each, f ran {counted.calls} times")


def read_between_backward_and_step():
    heading("a read between backward() and step() does not leave an old value behind")
    layer = register_constrained_parameter(nn.Linear(4, 4), "weight", orthogonal)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    layer(torch.rand(2, 4)).square().sum().backward()
    old = layer.weight.detach().clone()
    optimizer.step()
    assert torch.equal(layer.weight, orthogonal(layer._weight_unconstrained))
    moved = (layer.weight - old).norm().item()
    print(f"after the step the weight has moved by {moved:.3f}")


class Layer(ConstrainedModule):
    """As in the request: registered, read and initialised inside __init__."""

    def __init__(self, n):
        super().__init__()
        self.W = nn.Parameter(torch.rand(n, n))
        self.register_constrained_parameter(name="W", function=orthogonal)
        assert self.W.shape == (n, n)
        torch.nn.init.eye_(self._W_unconstrained)

    def forward(self, inputs):
        return inputs @ self.W.t()


def initialise_after_a_first_read():
    heading("torch.nn.init.eye_(self._W_unconstrained) after a first read inside __init__")
    layer = Layer(4)
    assert torch.equal(layer.W, torch.eye(4))
    print("triu(eye, 1) is 0, so W is the identity:", torch.equal(layer.W, torch.eye(4)))


def first_read_without_grad():
    heading("a first read under no_grad costs no gradient later")
    layer = register_constrained_parameter(nn.Linear(4, 4), "weight", orthogonal)
    with torch.no_grad():
        layer(torch.rand(2, 4))
    layer(torch.rand(2, 4)).square().sum().backward()
    print(f"norm of the gradient of x: {layer._weight_unconstrained.grad.norm():.3f}")


def manual_update():
    heading('update="manual": told and not told')
    lin = nn.Linear(4, 4)
    register_constrained_parameter(lin, name="weight", function=torch.tanh, update="manual")
    old = lin.weight.detach().clone()
    with torch.no_grad():
        lin._weight_unconstrained.add_(1.0)
    assert torch.equal(lin.weight, old)
    print("not told: the old value")
    lin.weight.updated()
    assert torch.equal(lin.weight, torch.tanh(lin._weight_unconstrained))
    print("lin.weight.updated(): the new one")


def method_on_every_module():
    heading("lin.register_constrained_parameter on every nn.Module, if you ask for it")
    assert not hasattr(nn.Module, "register_constrained_parameter")
    extend_nn_module()
    try:
        lin = nn.Linear(4, 4)
        lin.register_constrained_parameter(name="weight", function=orthogonal, update="auto")
        defect = (lin.weight @ lin.weight.t() - torch.eye(4)).norm().item()
        print(f"distance of lin.weight from orthogonality: {defect:.1e}")
    finally:
        del nn.Module.register_constrained_parameter


class Scaled:
    """exp, with the right inverse that makes assignment possible."""

    def __call__(self, x):
        return x.exp()

    def right_inverse(self, y):
        return y.log()


def assignment():
    heading("assigning to the constrained parameter")
    layer = register_constrained_parameter(nn.Linear(4, 4), "weight", torch.tanh)
    try:
        layer.weight = torch.zeros(4, 4)
    except ConstraintError as error:
        print(f"tanh, without right inverse: {type(error).__name__}: {error}")
    layer = nn.Linear(4, 4)
    nn.init.uniform_(layer.weight, 0.5, 2.0)
    register_constrained_parameter(layer, "weight", Scaled())
    layer.weight = torch.full((4, 4), 3.0)
    assert torch.allclose(layer._weight_unconstrained.exp(), torch.full((4, 4), 3.0))
    print("with right inverse: x is moved so that y is the new value")


def modifications_are_noticed():
    heading("an exception if the constrained tensor is modified in any way")

    def in_place(layer):
        with torch.no_grad():
            layer.weight.mul_(2.0)

    def through_data(layer):
        layer.weight.data += 1.0

    for name, write in {"in place": in_place, ".data": through_data}.items():
        layer = register_constrained_parameter(nn.Linear(4, 4), "weight", orthogonal)
        good = layer.weight.detach().clone()
        try:
            write(layer)
            layer(torch.rand(2, 4))
        except ConstraintError as error:
            print(f"{name}: {type(error).__name__}: {error}")
        else:
            raise AssertionError("the write went unnoticed")
        assert torch.equal(layer.weight, good)
        print("the last good value is still there")


def temporary_value():
    heading("a temporary change of the cached value")
    layer = register_constrained_parameter(nn.Linear(4, 4, bias=False), "weight", orthogonal)
    inputs = torch.rand(2, 4)
    with torch.no_grad():
        before = layer(inputs)
        with temporarily(layer, "weight", torch.eye(4)):
            assert torch.equal(layer(inputs), inputs)
        assert torch.equal(layer(inputs), before)
    print("inside the block the weight is the identity, afterwards it is f(x) again")


def main():
    torch.manual_seed(0)
    five_maps()
    read_between_backward_and_step()
    initialise_after_a_first_read()
    first_read_without_grad()
    manual_update()
    method_on_every_module()
    assignment()
    modifications_are_noticed()
    temporary_value()


if __name__ == "__main__":
    main()
