"""Freezing and unfreezing models and parameters, against the model that evaluates f at each read."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import constrainedparams as cp

from .models import WORDS, Net, Softened, constrained_net

NAMES = ["scale", "embed.weight", "encoder.0.inner.weight", "encoder.1.inner.weight", "head.bias"]


class Naive(nn.Module):
    """The same parameters and map state as plain tensors; f runs inline, once per forward."""

    def __init__(self, model):
        super().__init__()
        self.plain = Net()
        self.functions, self.bases = {}, {}
        given = dict(model.named_parameters())
        self.x = nn.ParameterDict()
        for name in dict(self.plain.named_parameters()):
            path, _, last = name.rpartition(".")
            raw = f"{path}._{last}_unconstrained" if path else f"_{last}_unconstrained"
            if raw in given:
                owner = model.get_submodule(path)
                self.functions[name] = copy.deepcopy(cp.constraint_of(owner, last))
                self.bases[name] = dict(owner.named_buffers(recurse=False)).get(f"_{last}_base")
            value = given.get(raw, given.get(name))
            self.x[name.replace(".", "/")] = nn.Parameter(value.detach().clone())
        self.own = nn.ModuleList([f for f in self.functions.values() if isinstance(f, nn.Module)])

    def parameter(self, name):
        return self.x[name.replace(".", "/")]

    def forward(self, words):
        tensors = {}
        for key, x in self.x.items():
            name = key.replace("/", ".")
            f, base = self.functions.get(name), self.bases.get(name)
            state = {} if base is None else {"base": base}
            tensors[name] = x if f is None else f(x, **state)
        return torch.func.functional_call(self.plain, tensors, (words,))


def x_of(model, name):
    path, _, last = name.rpartition(".")
    owner = model.get_submodule(path)
    return (
        getattr(owner, f"_{last}_unconstrained", None)
        if cp.is_constrained(owner, last)
        else getattr(owner, last)
    )


def y_of(model, name):
    path, _, last = name.rpartition(".")
    return getattr(model.get_submodule(path), last)


@pytest.fixture
def both():
    model = constrained_net()
    return model, Naive(model)


def everything(model):
    return [name for name, _ in Net().named_parameters()]


def compare(model, naive):
    """One forward and backward of both: outputs and all gradients agree, missing ones too."""
    model.zero_grad()
    naive.zero_grad()
    out, want = model(WORDS), naive(WORDS)
    assert_close(out, want)
    assert out.requires_grad == want.requires_grad
    if out.requires_grad:
        out.square().sum().backward()
        want.square().sum().backward()
    for name in everything(model):
        ours, theirs = x_of(model, name).grad, naive.parameter(name).grad
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert_close(ours, theirs)
    with torch.no_grad():
        assert_close(model(WORDS), want)


def change(model, naive, name):
    with torch.no_grad():
        for x in (x_of(model, name), naive.parameter(name)):
            x.mul_(0.9).add_(0.05)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("read_before", [True, False])
def test_a_whole_model(both, training, read_before):
    model, naive = both
    model.train(training)
    if read_before:
        compare(model, naive)
    for _ in range(2):
        for trains in (False, True):
            assert model.requires_grad_(trains) is model
            naive.requires_grad_(trains)
            compare(model, naive)
            for name in NAMES:
                assert y_of(model, name).requires_grad is trains
                change(model, naive, name)
            compare(model, naive)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("through", ["x", "y", "attribute of x", "attribute of y"])
def test_one_parameter(both, name, through):
    model, naive = both
    for trains in (False, True, False):
        tensor = x_of(model, name) if through.endswith("x") else y_of(model, name)
        if through.startswith("attribute"):
            tensor.requires_grad = trains
        else:
            tensor.requires_grad_(trains)
        naive.parameter(name).requires_grad_(trains)
        assert x_of(model, name).requires_grad is y_of(model, name).requires_grad is trains
        compare(model, naive)
        change(model, naive, name)
        compare(model, naive)


@pytest.mark.parametrize("part", ["embed", "encoder", "encoder.0.inner", "head"])
def test_a_part(both, part):
    model, naive = both
    compare(model, naive)
    for trains in (False, True):
        model.get_submodule(part).requires_grad_(trains)
        for name in everything(model):
            if name.startswith(part):
                naive.parameter(name).requires_grad_(trains)
        compare(model, naive)


@pytest.mark.parametrize("first", [True, False])
def test_between_forward_and_backward(both, first):
    model, naive = both
    if not first:
        compare(model, naive)
    model.zero_grad(), naive.zero_grad()
    out, want = model(WORDS), naive(WORDS)
    x_of(model, "embed.weight").requires_grad_(False)
    naive.parameter("embed.weight").requires_grad_(False)
    out.square().sum().backward()
    want.square().sum().backward()
    for name in everything(model):
        ours, theirs = x_of(model, name).grad, naive.parameter(name).grad
        assert (ours is None) == (theirs is None), name
        assert ours is None or torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    compare(model, naive)


def test_a_function_with_parameters_of_its_own():
    model = constrained_net()
    cp.register_constrained_parameter(model.encoder[0].norm, "weight", Softened())
    naive = Naive(model)
    ours, theirs = model.encoder[0].norm._weight_function, naive.own[0]
    parts = [
        (x_of(model, "encoder.0.norm.weight"), naive.parameter("encoder.0.norm.weight")),
        (ours.sharpness, theirs.sharpness),
    ]
    for x_trains, f_trains in [(False, True), (True, False), (False, False), (True, True)]:
        for pair, trains in zip(parts, (x_trains, f_trains), strict=True):
            for tensor in pair:
                tensor.requires_grad_(trains)
        compare(model, naive)
        assert model.encoder[0].norm.weight.requires_grad is (x_trains or f_trains)
        for one, two in parts:
            assert (one.grad is None) == (two.grad is None)
            assert one.grad is None or torch.allclose(one.grad, two.grad, rtol=1e-10, atol=1e-12)
        change(model, naive, "encoder.0.norm.weight")
        with torch.no_grad():
            for tensor in parts[1]:
                tensor.add_(0.1)
        compare(model, naive)


@pytest.mark.parametrize(
    "make", [torch.optim.SGD, torch.optim.Adam, lambda p, lr: torch.optim.SGD(p, lr, fused=True)]
)
def test_training_with_parts_frozen_in_turn(both, make):
    """Gradual unfreezing, as in fine-tuning: the same x after every round."""
    model, naive = both
    optimizers = [
        (model, make(model.parameters(), lr=0.05)),
        (naive, make(naive.parameters(), lr=0.05)),
    ]
    parts = [["head.", "scale"], ["encoder.1."], ["encoder.0."], ["embed."]]
    for turn in range(6):
        frozen = [prefix for part in parts[turn % 4 + 1 :] for prefix in part]
        for name in everything(model):
            trains = not name.startswith(tuple(frozen)) if frozen else True
            x_of(model, name).requires_grad_(trains)
            naive.parameter(name).requires_grad_(trains)
        for _ in range(2):
            for net, optimizer in optimizers:
                optimizer.zero_grad()
                net(WORDS).square().sum().backward()
                optimizer.step()
        for name in everything(model):
            assert_close(
                x_of(model, name).detach(), naive.parameter(name).detach(), rtol=1e-9, atol=1e-11
            )
    compare(model, naive)


def test_frozen_is_evaluated_once_per_change_without_a_graph():
    model = constrained_net().requires_grad_(False)
    for x in model.parameters():
        x.mul_(1.0)  # a change, in grad mode, as frozen leaves allow it
    before = {name: c.evaluations for name, c in cp.statistics(model).items()}
    for _ in range(5):
        assert not model(WORDS).requires_grad
    after = {name: c.evaluations for name, c in cp.statistics(model).items()}
    assert after == {name: count + 1 for name, count in before.items()}
    assert all(y_of(model, name).grad_fn is None for name in NAMES)


def test_bake_and_groups_of_a_frozen_model():
    model = constrained_net()
    groups = cp.parameter_groups(model.requires_grad_(False))
    optimizer = torch.optim.SGD(groups, lr=0.1)
    want = cp.bake(model)
    optimizer.step()
    assert torch.equal(model(WORDS), want(WORDS))
    model.head.requires_grad_(True)
    model(WORDS).square().sum().backward()
    optimizer.step()
    assert torch.equal(model.embed.weight, want.embed.weight)
    assert not torch.equal(model.head.bias, want.head.bias)
