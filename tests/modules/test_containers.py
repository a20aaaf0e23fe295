"""Constrained elements of ParameterList and ParameterDict, under the names "0", "1" and the keys."""

import copy
import pickle

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .naive import Shifted, bounded, equal, loss_of, orthogonal, value

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m)),
          "copy": copy.copy}  # fmt: skip


def three():
    return nn.ParameterList([torch.rand(4, 4) for _ in range(3)])


def two():
    return nn.ParameterDict({"a": torch.rand(4, 4), "b": torch.rand(4, 4)})


class Product(nn.Module):
    """Multiplies by every matrix of its list, or of its dict."""

    def __init__(self, matrices):
        super().__init__()
        self.matrices = matrices

    def forward(self, h):
        values = self.matrices.values() if hasattr(self.matrices, "values") else self.matrices
        for w in values:
            h = torch.tanh(h @ w)
        return h


@pytest.mark.parametrize(
    ("make", "name", "place"), [(three, "0", 0), (three, "2", 2), (two, "b", 1)]
)
def test_an_element_trains_as_the_naive_one(make, name, place):
    model = Product(make())
    free = [value(p).requires_grad_() for p in model.parameters()]
    cp.register_constrained_parameter(model.matrices, name, orthogonal)
    optimizers = [torch.optim.Adam(p, lr=0.02) for p in (model.parameters(), free)]
    for step in range(3):
        torch.manual_seed(step)
        inputs = torch.randn(3, 4)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_of(model(inputs)).backward()
        want = inputs
        for i, w in enumerate(free):
            want = torch.tanh(want @ (orthogonal(w) if i == place else w))
        loss_of(want).backward()
        for optimizer in optimizers:
            optimizer.step()
    for p, w in zip(model.parameters(), free, strict=True):
        equal(p, w)
        equal(p.grad, w.grad)
    assert cp.statistics(model)[f"matrices.{name}"].evaluations == 3


def test_every_way_to_read_a_list():
    matrices = three()
    cp.register_constrained_parameter(matrices, "1", bounded)
    y = bounded(matrices._1_unconstrained)
    assert len(matrices) == 3
    equal(matrices[1], y)
    equal(matrices[-2], y)
    equal(list(matrices)[1], y)
    assert matrices[1] is matrices[-2] is list(matrices)[1]
    assert list(matrices.state_dict()) == ["0", "_1_unconstrained", "2"]


def test_every_way_to_read_a_dict():
    matrices = two()
    cp.register_constrained_parameter(matrices, "a", bounded)
    y = bounded(matrices._a_unconstrained)
    assert list(matrices) == list(matrices.keys()) == ["a", "b"] and "a" in matrices
    for got in (matrices["a"], matrices.a, matrices.get("a"), dict(matrices.items())["a"],
                next(iter(matrices.values())), matrices.setdefault("a", torch.zeros(1))):  # fmt: skip
        equal(got, y)
    assert list(matrices.state_dict()) == ["_a_unconstrained", "b"]


@pytest.mark.parametrize(("make", "key"), [(three, 1), (two, "b")])
def test_an_element_is_assigned_to(make, key):
    matrices = make()
    cp.register_constrained_parameter(matrices, str(key), Shifted())
    matrices[key] = torch.ones(4, 4)
    equal(matrices[key], torch.ones(4, 4))
    assert cp.is_constrained(matrices, str(key)) and len(matrices) == len(make())


def test_a_list_grows():
    matrices = three()
    cp.register_constrained_parameter(matrices, "1", bounded)
    matrices.append(torch.ones(2))
    matrices.extend([torch.zeros(3)])
    assert [tuple(w.shape) for w in matrices] == [(4, 4)] * 3 + [(2,), (3,)]
    cp.register_constrained_parameter(matrices, "3", torch.tanh)
    equal(matrices[3], torch.ones(2).tanh())
    equal(matrices[1], bounded(matrices._1_unconstrained))


def test_a_dict_grows_and_shrinks():
    matrices = two()
    cp.register_constrained_parameter(matrices, "a", bounded)
    matrices["c"] = torch.ones(2)
    matrices.pop("b")
    assert list(matrices) == ["a", "c"]
    with pytest.raises(cp.RegistrationError, match="remove_constrained_parameter"):
        matrices.pop("a")
    equal(matrices.a, bounded(matrices._a_unconstrained))
    cp.remove_constrained_parameter(matrices, "a")
    assert type(matrices) is nn.ParameterDict


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize(("make", "key"), [(three, 1), (two, "b")])
def test_copies(make, key, copied):
    matrices = make()
    cp.register_constrained_parameter(matrices, str(key), cp.Orthogonal())
    twin = copied(matrices)
    assert type(twin) is type(matrices) and len(twin) == len(matrices)
    equal(twin[key], matrices[key])
    if copied is not copy.copy:
        before = value(matrices[key])
        twin[key] = torch.eye(4)
        equal(matrices[key], before)
        cp.remove_constrained_parameter(twin, str(key))
        assert cp.is_constrained(matrices, str(key))
        assert type(twin) is type(make())


@pytest.mark.parametrize(("make", "key"), [(three, 1), (two, "b")])
def test_removal(make, key):
    matrices = make()
    names = list(matrices.state_dict())
    cp.register_constrained_parameter(matrices, str(key), bounded)
    y = value(matrices[key])
    cp.remove_constrained_parameter(matrices, str(key))
    equal(matrices[key], y)
    assert type(matrices[key]) is nn.Parameter and list(matrices.state_dict()) == names


def test_the_index_instead_of_the_name():
    with pytest.raises(cp.RegistrationError, match="'0'"):
        cp.register_constrained_parameter(three(), 0, bounded)


def test_modules_in_containers():
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", bounded)
    model = nn.ModuleDict({"a": layer, "b": nn.ModuleList([copy.deepcopy(layer)])})
    names = ["a._weight_unconstrained", "a.bias", "b.0._weight_unconstrained", "b.0.bias"]
    assert list(model.state_dict()) == [n for n, _ in model.named_parameters()] == names
    assert list(cp.statistics(model)) == ["a.weight", "b.0.weight"]
