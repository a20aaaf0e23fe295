"""Plausible mistakes of a newcomer: the message says what to type instead, and that works."""

import copy
import re
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import constrainedparams
from constrainedparams import (
    ConstraintError,
    ConstraintViolation,
    FunctionError,
    Interval,
    NoRightInverse,
    Orthogonal,
    PositiveDefinite,
    RegistrationError,
    ShapeError,
    register_constrained_parameter,
)


def linear():
    return nn.Linear(4, 4)


def orthogonal():
    return register_constrained_parameter(nn.Linear(4, 4), "weight", Orthogonal())


def without_inverse():
    return register_constrained_parameter(nn.Linear(4, 4), "weight", torch.tanh)


def sparse():
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.eye(4).to_sparse())
    return layer


def register(*args, **options):
    return lambda layer: register_constrained_parameter(layer, *args, **options)


@dataclass(frozen=True)
class Mistake:
    """``do`` raises ``error``, whose message holds every text of ``says``.

    ``instead`` is what it says to type: source that runs after the failure, on the same ``layer``.
    """

    make: Any
    do: Any
    error: type
    says: tuple
    instead: str


def assign(value):
    return lambda layer: setattr(layer, "weight", value(layer))


def then_use(write):
    """A write in place is noticed at the next use."""

    def do(layer):
        with torch.no_grad():
            write(layer)
        layer(torch.ones(1, 4))

    return do


def init_all(layer):
    def init(module):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(4, 2))
    model.apply(init)
    model(torch.ones(1, 4))


def init_data(layer):
    layer.apply(lambda module: module.weight.data.normal_(0, 0.02))
    layer(torch.ones(1, 4))


PROJECTED = "layer.weight = Orthogonal().project(2 * layer.weight)"
TO_X = "with torch.no_grad(): layer._weight_unconstrained.fill_(0.5)"

MISTAKES = {
    "the_class": Mistake(
        linear, register("weight", Orthogonal), RegistrationError,
        ("class Orthogonal", "Write `Orthogonal()`"),
        "register_constrained_parameter(layer, 'weight', Orthogonal())"),
    "the_class_of_a_module": Mistake(
        linear, register("weight", nn.Tanh), RegistrationError, ("Write `Tanh()`",),
        "register_constrained_parameter(layer, 'weight', nn.Tanh())"),
    "a_letter": Mistake(
        linear, register("wieght", Orthogonal()), RegistrationError,
        ("Linear.wieght", "Did you mean 'weight'?"),
        "register_constrained_parameter(layer, 'weight', Orthogonal())"),
    "another_framework": Mistake(
        linear, register("kernel", Orthogonal()), RegistrationError,
        ("Linear.kernel", "parameters here: weight, bias"),
        "register_constrained_parameter(layer, 'weight', Orthogonal())"),
    "the_tensor": Mistake(
        linear, lambda layer: register_constrained_parameter(layer.weight, "weight", Orthogonal()),
        RegistrationError, ("module is Parameter", "expected an nn.Module", "`Parametrized(tensor, function)`"),
        "layer.own = Parametrized(layer.weight, Orthogonal())"),
    "a_name_of_a_set": Mistake(
        linear, register("weight", "orthogonal"), RegistrationError,
        ("function is 'orthogonal' (str)", "`Orthogonal()`"),
        "register_constrained_parameter(layer, 'weight', Orthogonal())"),
    "a_convolution": Mistake(
        lambda: nn.Conv2d(4, 3, 2), register("weight", Orthogonal()), RegistrationError,
        ("Conv2d.weight has 4 axes", 'view="o i h w -> o (i h w)"', 'view="batch"'),
        'register_constrained_parameter(layer, "weight", Orthogonal(view="o i h w -> o (i h w)"))'),
    "a_sequence_convolution": Mistake(
        lambda: nn.Conv1d(4, 3, 2), register("weight", Orthogonal()), RegistrationError,
        ("Conv1d.weight has 3 axes", 'view="o i w -> o (i w)"'),
        'register_constrained_parameter(layer, "weight", Orthogonal(view="o i w -> o (i w)"))'),
    "a_vector": Mistake(
        linear, register("bias", Orthogonal()), ShapeError,
        ("(4,)", "at least two axes", "Interval"),
        "register_constrained_parameter(layer, 'bias', Interval(-1.0, 1.0))"),
    "not_square": Mistake(
        lambda: nn.Linear(4, 3), register("weight", PositiveDefinite()), ShapeError,
        ("(3, 4)", "square", "Orthogonal"),
        "register_constrained_parameter(layer, 'weight', Orthogonal())"),
    "no_bias": Mistake(
        lambda: nn.Linear(4, 4, bias=False), register("bias", Interval(-1.0, 1.0)),
        RegistrationError, ("Linear.bias", "is None", "weight"),
        "register_constrained_parameter(layer, 'weight', Interval(-1.0, 1.0))"),
    "a_mode": Mistake(
        linear, register("weight", Orthogonal(), update="autp"), RegistrationError,
        ("update='autp'", "'auto', 'manual', 'verified'", "Did you mean 'auto'?"),
        "register_constrained_parameter(layer, 'weight', Orthogonal(), update='auto')"),
    "another_set": Mistake(
        orthogonal, register("weight", Orthogonal(map="cayley")), RegistrationError,
        ("already constrained by Orthogonal()", "remove_constrained_parameter(module, 'weight')"),
        "module = layer; constrainedparams.remove_constrained_parameter(module, 'weight'); "
        "register_constrained_parameter(layer, 'weight', Orthogonal(map='cayley'))"),
    "lazy": Mistake(
        lambda: nn.LazyLinear(4), register("weight", Orthogonal()), RegistrationError,
        ("no shape yet", "Run a forward once, then register"),
        "layer(torch.ones(1, 4)); register_constrained_parameter(layer, 'weight', Orthogonal())"),
    "meta": Mistake(
        lambda: nn.Linear(4, 4, device="meta"), register("weight", Orthogonal()), RegistrationError,
        ("meta device", "`module.to_empty(device=...)`"),
        "layer.to_empty(device='cpu'); nn.init.eye_(layer.weight); "
        "register_constrained_parameter(layer, 'weight', Orthogonal())"),
    "the_parameter_underneath": Mistake(
        orthogonal, register("_weight_unconstrained", torch.tanh), RegistrationError,
        ("unconstrained tensor of `weight`", "registered under `weight`"),
        "constrainedparams.remove_constrained_parameter(layer, 'weight'); "
        "register_constrained_parameter(layer, 'weight', lambda x: torch.tanh(x))"),
    "a_multiple": Mistake(
        orthogonal, assign(lambda layer: 2 * layer.weight), ConstraintViolation,
        ("Linear.weight", "away from Orthogonal()", "`Orthogonal().project(value)`"), PROJECTED),
    "not_a_number": Mistake(
        orthogonal, assign(lambda layer: layer.weight / 0), ConstraintViolation,
        ("Linear.weight", "16 of 16 entries are NaN or infinite", "torch.nan_to_num"),
        "layer.weight = Orthogonal().project(torch.nan_to_num(torch.eye(4) / 0, posinf=1.0))"),
    "not_a_number_loaded": Mistake(
        orthogonal, lambda layer: layer.load_state_dict(
            {"weight": torch.full((4, 4), torch.nan), "bias": torch.zeros(4)}),
        ConstraintViolation, ("Linear.weight", "16 of 16 entries are NaN", "torch.nan_to_num"),
        "layer.load_state_dict({'weight': torch.eye(4), 'bias': torch.zeros(4)})"),
    "without_a_derivative": Mistake(
        linear, register("weight", lambda x: x.detach().tanh()), FunctionError,
        ("Linear.weight", "without a derivative", "`detach()`", "`requires_grad_(False)`"),
        "layer.weight.requires_grad_(False); "
        "register_constrained_parameter(layer, 'weight', lambda x: x.detach().tanh())"),
    "without_a_derivative_under_no_grad": Mistake(
        linear, register("weight", torch.no_grad()(torch.tanh)), FunctionError,
        ("Linear.weight", "without a derivative", "`torch.no_grad()`"),
        "register_constrained_parameter(layer, 'weight', torch.tanh)"),
    "an_initialisation": Mistake(
        linear, register("weight", nn.init.orthogonal_), FunctionError,
        ("Linear.weight", "writes into the tensor that it gets", "`x = x.clone()`"),
        "register_constrained_parameter(layer, 'weight', Orthogonal())"),
    "two_names": Mistake(
        linear, register(["weight", "bias"], Interval(-1.0, 1.0)), RegistrationError,
        ("['weight', 'bias']", "expected one name", "`register_constrained_parameters(module, {"),
        "constrainedparams.register_constrained_parameters("
        "layer, {'weight': Interval(-1.0, 1.0), 'bias': Interval(-1.0, 1.0)})"),
    "sparse": Mistake(
        sparse, register("weight", Interval(-1.0, 1.0)), RegistrationError,
        ("torch.sparse_coo", "expected a dense parameter", "`parameter.to_dense()`"),
        "layer.weight = nn.Parameter(layer.weight.to_dense()); "
        "register_constrained_parameter(layer, 'weight', Interval(-1.0, 1.0))"),
    "not_a_tensor": Mistake(
        orthogonal, assign(lambda layer: torch.eye(4).tolist()), ConstraintError,
        ("list", "expected a tensor", "torch.as_tensor(...)"),
        "layer.weight = torch.as_tensor(torch.eye(4).tolist())"),
    "none": Mistake(
        orthogonal, assign(lambda layer: None), ConstraintError,
        ("NoneType", "remove_constrained_parameter"),
        "constrainedparams.remove_constrained_parameter(layer, 'weight')"),
    "another_shape": Mistake(
        orthogonal, assign(lambda layer: torch.eye(3)), ShapeError,
        ("(4, 4)", "(3, 3)"), "layer.weight = torch.eye(4)"),
    "deleted": Mistake(
        orthogonal, lambda layer: delattr(layer, "weight"), RegistrationError,
        ('remove_constrained_parameter(module, "weight")',),
        'module = layer; constrainedparams.remove_constrained_parameter(module, "weight"); '
        "del layer.weight; layer.weight = torch.nn.Parameter(torch.eye(4))"),
    "no_inverse": Mistake(
        without_inverse, assign(lambda layer: torch.zeros(4, 4)), NoRightInverse,
        ("tanh", "`_weight_unconstrained`", "right_inverse(y) -> x"), TO_X),
    "clamped": Mistake(
        orthogonal, then_use(lambda layer: layer.weight.data.clamp_(-0.1, 0.1)),
        ConstraintViolation, ("`Orthogonal().project(value)`", "written in place"), PROJECTED),
    "subtracted": Mistake(
        orthogonal, then_use(lambda layer: layer.weight.sub_(0.1)),
        ConstraintViolation, ("`Orthogonal().project(value)`",), PROJECTED),
    "a_step_by_hand": Mistake(
        without_inverse, then_use(lambda layer: layer.weight.sub_(0.1)),
        NoRightInverse, ("`_weight_unconstrained`",), TO_X),
    "in_place_with_grad": Mistake(
        orthogonal, lambda layer: (layer.weight.mul_(2.0), layer(torch.ones(1, 4))),
        ConstraintError, ("out-of-place", "`with torch.no_grad():`"),
        "with torch.no_grad(): layer.weight.neg_()"),
    "initialised": Mistake(
        orthogonal, init_all, ConstraintViolation,
        ("Linear.weight", "`Orthogonal().project(value)`", "written in place"),
        "layer.weight = Orthogonal().project(nn.init.xavier_uniform_(torch.empty(4, 4)))"),
    "initialised_data": Mistake(
        without_inverse, init_data, NoRightInverse, ("Linear.weight", "`_weight_unconstrained`"),
        "layer.apply(lambda module: nn.init.normal_(module._weight_unconstrained, 0, 0.02))"),
}  # fmt: skip


def snapshot(layer):
    if any(nn.parameter.is_lazy(p) or p.is_meta for p in layer.parameters()):
        return type(layer)
    return type(layer), {n: t.clone() for n, t in layer.state_dict().items() if "bias" not in n}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_the_message_and_its_remedy(mistake):
    layer = mistake.make()
    before = snapshot(layer)
    with pytest.raises(mistake.error) as caught:
        mistake.do(layer)
    message = str(caught.value)
    for text in mistake.says:
        assert text in message, message
    after = snapshot(layer)
    assert str(after) == str(before)
    known = {"torch": torch, "nn": nn, "layer": layer, "constrainedparams": constrainedparams}
    exec(mistake.instead, vars(constrainedparams) | known)
    if not isinstance(layer, nn.modules.conv._ConvNd):
        layer(torch.ones(1, 4)).sum().backward()


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_messages_are_sentences_of_bearable_length(mistake):
    with pytest.raises(mistake.error) as caught:
        mistake.do(mistake.make())
    message = str(caught.value)
    assert 40 < len(message) < 400 and message.endswith((".", "?", ")", "`"))
    assert "0x" not in message and "\n" not in message


def test_after_torch_compile():
    layer = linear()
    wrapped = torch.compile(layer, backend="eager")
    with pytest.raises(RegistrationError, match="Register on that one before wrapping it"):
        register_constrained_parameter(wrapped, "weight", Orthogonal())
    with pytest.raises(RegistrationError, match="before wrapping, on the plain model"):
        register_constrained_parameter(layer, "weight", Orthogonal())
    layer = linear()
    register_constrained_parameter(layer, "weight", Orthogonal())
    wrapped = torch.compile(layer, backend="eager")
    assert torch.equal(wrapped(torch.eye(4)), layer(torch.eye(4)))


def test_the_remedy_of_a_wrapped_model_names_no_wrapper_as_reason_afterwards():
    """Once the wrapper is gone the plain model can be registered on."""
    layer = linear()
    wrapped = nn.DataParallel(layer)
    with pytest.raises(RegistrationError, match="inside the wrapper"):
        register_constrained_parameter(wrapped, "weight", Orthogonal())
    del wrapped
    register_constrained_parameter(layer, "weight", Orthogonal())


# What works although it looks like a mistake -----------------------------------------------------
def test_the_optimiser_made_first():
    layer = linear()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    register_constrained_parameter(layer, "weight", Orthogonal())
    before = layer.weight.detach().clone()
    layer(torch.ones(1, 4)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, before)
    assert Orthogonal().contains(layer.weight)


def test_registering_twice_in_a_notebook():
    layer = linear()
    for _ in range(2):
        register_constrained_parameter(layer, "weight", Orthogonal())
        register_constrained_parameter(layer, "bias", lambda x: torch.tanh(x))
    assert len(list(layer.parameters())) == 2


def test_clipping_the_gradients_of_the_model():
    layer = orthogonal()
    layer(torch.ones(1, 4)).square().sum().backward()
    total = torch.nn.utils.clip_grad_norm_(layer.parameters(), 1e-3)
    assert total > 1e-3
    assert torch.nn.utils.get_total_norm([p.grad for p in layer.parameters()]) <= 1.001e-3


def test_gradient_of_y_on_request():
    layer = orthogonal()
    layer.weight.retain_grad()
    layer(torch.eye(4)).sum().backward()
    assert torch.equal(layer.weight.grad, torch.ones(4, 4))
    assert layer._weight_unconstrained.grad is not None


def test_an_optimiser_of_y_is_refused_before_it_does_harm():
    layer = orthogonal()
    for frozen in (False, True):  # torch takes a tensor without grad for a leaf
        layer.requires_grad_(not frozen)
        with pytest.raises(RegistrationError, match=r"`module\._weight_unconstrained`"):
            torch.optim.SGD([layer.weight], lr=0.1)
        with pytest.raises(RegistrationError, match=r"`module\.parameters\(\)`"):
            torch.optim.AdamW([{"params": [layer.weight]}])
    torch.optim.SGD([layer._weight_unconstrained], lr=0.1)
    assert not layer.weight.requires_grad and layer.weight.is_leaf


def test_weight_decay_and_freezing_by_name():
    """Loops over named_parameters see x under its own name."""
    model = nn.Sequential(orthogonal(), linear())
    names = [n for n, _ in model.named_parameters()]
    assert names == ["0._weight_unconstrained", "0.bias", "1.weight", "1.bias"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not name.startswith("0.")
    assert not model[0].weight.requires_grad
    model(torch.ones(1, 4)).sum().backward()
    assert model[0]._weight_unconstrained.grad is None and model[1].weight.grad is not None


def test_nothing_is_printed_and_nothing_warned():
    """A whole first session, with warnings as errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = orthogonal()
        optimizer = torch.optim.Adam(layer.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
        twin = copy.deepcopy(layer)
        text = repr(layer) + repr(layer.weight) + repr(layer._weight_unconstrained) + str(twin)
    assert re.search(r"weight: Orthogonal\(\)", text)
