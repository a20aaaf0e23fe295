"""Tied weights: one x, one f, one y in several modules, in every way that models are handled."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import constrainedparams as cp


class Shift(nn.Module):
    """x + s with a learnt s, and a right inverse."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return x + self.shift

    def right_inverse(self, y):
        return y - self.shift


class Tied(nn.Module):
    """An encoder and a decoder with one weight under two names."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.decoder = nn.Module()
        self.decoder.register_parameter("kernel", nn.Parameter(torch.zeros(4, 4)))
        self.third = nn.Linear(4, 4, bias=False)

    def forward(self, x):
        h = self.encoder(x).tanh() @ self.decoder.kernel
        return self.third(h)


FUNCTIONS = {"set with state": cp.Orthogonal, "callable": lambda: torch.tanh, "module": Shift}


def tied_model(function=None, seed=0):
    torch.manual_seed(seed)
    model = Tied()
    function = cp.Orthogonal() if function is None else function
    cp.register_constrained_parameter(model.encoder, "weight", function)
    cp.share_constrained_parameter(model.encoder, "weight", model.decoder, "kernel")
    cp.share_constrained_parameter(model.decoder, "kernel", model.third, "weight")
    return model


def naive(model, x):
    """The forward of ``model`` with f evaluated inline, and its derivative in x and f's own."""
    source = model.encoder
    raw = source._weight_unconstrained.detach().clone().requires_grad_()
    function = cp.constraint_of(source, "weight")
    state = {"base": source._weight_base} if hasattr(source, "_weight_base") else {}
    y = function(raw, **state)
    out = (x @ y.T + source.bias).tanh() @ y @ y.T
    (grad,) = torch.autograd.grad(out.square().sum(), raw)
    return out.detach(), grad


def check(model):
    """Value and gradient are those of the naive model, with one f and one pullback."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(5)).to(model.encoder.bias)
    cp.updated(model)
    before = cp.statistics(model)["encoder.weight"]
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    value, grad = naive(model, x)
    after = cp.statistics(model)["encoder.weight"]
    loose = {"rtol": 1e-4, "atol": 1e-5}
    assert_close(out.detach(), value, **loose)
    assert_close(model.encoder._weight_unconstrained.grad, grad, **loose)
    assert model.encoder.weight is model.decoder.kernel is model.third.weight
    assert after.evaluations - before.evaluations == after.pullbacks - before.pullbacks == 1
    assert model.decoder._kernel_unconstrained is model.encoder._weight_unconstrained
    assert sum("unconstrained" in name for name, _ in model.named_parameters()) == 1


def train(model, steps=3):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4).to(model.encoder.bias)).square().sum().backward()
        optimizer.step()


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def swapped(action):
    def event(model):
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return action(model)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    return event


def overwritten(action):
    def event(model):
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            return action(model)
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)

    return event


def loaded(**options):
    def event(model):
        other = copy.deepcopy(model)
        train(other)
        model.load_state_dict(other.state_dict(), **options)
        return model

    return event


EVENTS = {
    "nothing": lambda m: m,
    "training": lambda m: train(m) or m,
    "deepcopy": copy.deepcopy,
    "deepcopy twice": lambda m: copy.deepcopy(copy.deepcopy(m)),
    "pickle": through_pickle,
    "torch.save": through_torch,
    "double": lambda m: m.double(),
    "double and back": lambda m: m.double().float(),
    "one module alone": lambda m: (m.third.double(), m.double())[1],
    "double, overwritten": overwritten(lambda m: m.double()),
    "double, overwritten, back": overwritten(lambda m: m.double().float()),
    "double, swapped": swapped(lambda m: m.double()),
    "to_empty and load": lambda m: _refill(m),
    "load": loaded(),
    "load, assigned": loaded(assign=True),
    "load, swapped": swapped(loaded()),
    "assignment at a shared place": lambda m: _assign(m),
    "plain checkpoint": lambda m: _plain(m),
}


def _refill(model):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model.to_empty(device="cpu")
    model.load_state_dict(state)
    return model


def _assign(model):
    with torch.no_grad():
        model.decoder.kernel = model.encoder.weight.detach().clone()
    return model


def _plain(model):
    other = copy.deepcopy(model)
    train(other)
    state = cp.plain_state_dict(other)
    assert list(state) == list(Tied().state_dict())
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_tied_before_and_after(function, event):
    if function == "callable" and event in ("assignment at a shared place", "plain checkpoint"):
        with pytest.raises(cp.NoRightInverse):
            EVENTS[event](tied_model(torch.tanh))
        return
    model = tied_model(FUNCTIONS[function]())
    check(model)
    model = EVENTS[event](model)
    check(model)
    train(model)
    check(model)


def test_cast_to_half_precision_keeps_one_wide_base():
    model = tied_model().bfloat16()
    assert model.encoder._weight_base is model.decoder._kernel_base
    assert model.encoder._weight_base.dtype == torch.float32
    assert model.encoder.weight is model.third.weight


def test_an_optimizer_made_before_keeps_working():
    torch.manual_seed(0)
    model = Tied()
    cp.register_constrained_parameter(model.encoder, "weight", cp.Orthogonal())
    optimizer = torch.optim.SGD(model.encoder.parameters(), lr=0.1)
    cp.share_constrained_parameter(model.encoder, "weight", model.third)
    before = model.third.weight.detach().clone()
    model(torch.ones(2, 4)).sum().backward()
    model.third.weight.sum().backward()
    optimizer.step()
    assert (model.third.weight - before).abs().max() > 1e-4


def test_an_optimizer_that_holds_the_former_parameter_raises():
    model = Tied()
    optimizer = torch.optim.SGD(model.third.parameters(), lr=0.1)
    cp.register_constrained_parameter(model.encoder, "weight", cp.Orthogonal())
    cp.share_constrained_parameter(model.encoder, "weight", model.third)
    with pytest.raises(cp.StaleOptimizer, match=r"Linear\.weight"):
        optimizer.step()


def test_weights_that_torch_had_tied_stay_tied():
    model = Tied()
    model.third.weight = model.encoder.weight
    cp.register_constrained_parameter(model.encoder, "weight", cp.Orthogonal())
    cp.share_constrained_parameter(model.encoder, "weight", model.third)
    cp.share_constrained_parameter(model.encoder, "weight", model.decoder, "kernel")
    check(model)


def test_a_tied_weight_is_not_constrained_twice():
    model = Tied()
    model.third.weight = model.encoder.weight
    cp.register_constrained_parameter(model.encoder, "weight", cp.Interval(-1.0, 1.0))
    before = model.encoder.weight.detach().clone()
    with pytest.raises(cp.RegistrationError, match="share_constrained_parameter"):
        cp.register_constrained_parameter(model.third, "weight", cp.Interval(-1.0, 1.0))
    assert_close(model.encoder.weight.detach(), before, rtol=0, atol=0)


def test_within_one_module():
    cell = nn.RNNCell(4, 4)
    cp.register_constrained_parameter(cell, "weight_hh", cp.Orthogonal())
    cp.share_constrained_parameter(cell, "weight_hh", cell, "weight_ih")
    assert cell.weight_ih is cell.weight_hh
    twin = copy.deepcopy(cell.double())
    twin(torch.ones(1, 4).double()).sum().backward()
    assert twin.weight_ih is twin.weight_hh
    assert cp.statistics(twin)["weight_ih"].evaluations == 1


def test_a_copy_of_one_of_them_is_independent():
    model = tied_model()
    alone = copy.deepcopy(model.decoder)
    value = alone.kernel.detach().clone()
    train(model)
    assert_close(alone.kernel.detach(), value, rtol=0, atol=0)
    assert list(alone.state_dict()) == ["_kernel_unconstrained", "_kernel_base"]


@pytest.mark.parametrize("keep", ["constrained", "unconstrained"])
@pytest.mark.parametrize("first", ["encoder", "decoder"])
def test_removal_unties_one(first, keep):
    model = tied_model()
    train(model)
    y = model.encoder.weight.detach().clone()
    x = model.encoder._weight_unconstrained.detach().clone()
    name = {"encoder": "weight", "decoder": "kernel"}[first]
    module = cp.remove_constrained_parameter(getattr(model, first), name, keep)
    plain = getattr(module, name)
    assert type(plain) is nn.Parameter
    assert_close(plain.detach(), y if keep == "constrained" else x, rtol=0, atol=0)
    with torch.no_grad():
        plain.zero_()
    assert_close(model.third.weight.detach(), y, rtol=0, atol=0)
    for other in {"encoder", "decoder"} - {first}:
        assert getattr(model, other)._parameters.keys() & {
            "_weight_unconstrained",
            "_kernel_unconstrained",
        }
    train(model)
    assert bool(cp.Orthogonal().contains(model.third.weight))


@pytest.mark.parametrize("copied", [lambda m: m, copy.deepcopy], ids=["itself", "a copy"])
def test_the_last_one_keeps_its_parameter_when_removed(copied):
    """An optimiser goes on with x once it is nobody else's."""
    model = copied(tied_model())
    last = model.third
    optimizer = torch.optim.SGD([last._weight_unconstrained], lr=0.1)
    x = last._weight_unconstrained
    cp.remove_constrained_parameter(model.encoder, "weight")
    cp.remove_constrained_parameter(model.decoder, "kernel")
    assert model.encoder.weight is not x
    cp.remove_constrained_parameter(last, "weight")
    assert last.weight is x
    last.weight.sin().sum().backward()
    before = last.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(last.weight, before)


def test_a_temporary_value_holds_in_all():
    model = tied_model()
    with cp.temporarily(model.encoder, "weight", torch.zeros(4, 4)):
        assert not model.decoder.kernel.any()
    assert model.decoder.kernel is model.encoder.weight


def test_deferral_counts_one_pullback():
    model = tied_model()
    before = cp.statistics(model)["third.weight"].pullbacks
    with cp.deferred_pullback(model):
        model(torch.ones(2, 4)).sum().backward()
    model(torch.ones(2, 4)).sum().backward()
    assert cp.statistics(model)["third.weight"].pullbacks == before + 1
    grad = model.encoder._weight_unconstrained.grad.clone()
    model.zero_grad()
    (2 * model(torch.ones(2, 4)).sum()).backward()
    assert_close(grad, model.encoder._weight_unconstrained.grad, rtol=1e-5, atol=1e-6)


def test_functional_call_keeps_them_tied():
    model = tied_model(torch.tanh)
    x = torch.randn(3, 4)
    other = torch.randn(4, 4)
    given = {"encoder._weight_unconstrained": other}
    y = other.tanh()
    expected = (x @ y.T + model.encoder.bias).tanh() @ y @ y.T
    assert_close(torch.func.functional_call(model, given, (x,)), expected)


# what is refused ---------------------------------------------------------------------------------


def test_sharing_again_changes_nothing():
    model = tied_model()
    y = model.third.weight
    assert cp.share_constrained_parameter(model.encoder, "weight", model.third) is model.third
    assert model.third.weight is y


def refused(error, match, *arguments):
    target = arguments[2]
    before = type(target), list(target._parameters.items()), list(target._buffers)
    with pytest.raises(error, match=match):
        cp.share_constrained_parameter(*arguments)
    assert (type(target), list(target._parameters.items()), list(target._buffers)) == before


def test_wrong_input():
    model = tied_model()
    plain = nn.Linear(4, 4)
    refused(cp.RegistrationError, "constrained here: weight", model.encoder, "wieght", plain)
    refused(cp.RegistrationError, "Did you mean 'weight'", model.encoder, "weight", plain, "wieght")
    refused(
        cp.ShapeError, r"\(4, 5\).*\(4, 4\).*transposed", model.encoder, "weight", nn.Linear(5, 4)
    )
    refused(cp.RegistrationError, "float64", model.encoder, "weight", nn.Linear(4, 4).double())
    refused(cp.RegistrationError, "nothing", plain, "weight", nn.Linear(4, 4))
    used = nn.Linear(4, 4)
    used._weight_cache = None
    refused(cp.RegistrationError, "'_weight_cache'.*Rename", model.encoder, "weight", used)
    taken = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", torch.tanh)
    refused(cp.RegistrationError, "remove_constrained", model.encoder, "weight", taken)
