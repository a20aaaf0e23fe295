"""Wrong input: the message has the value, the expectation and the remedy; nothing is changed."""

import copy

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import (
    Counting,
    PackedSymmetric,
    Symmetric,
    assert_fresh,
    assert_untouched,
    change,
    constrained_linear,
    equal,
    fingerprint,
    loss_of,
    numbers,
    skew_exp,
    tanh_exp,
)

other = nn.Linear(4, 4, dtype=torch.float64)
trainable = torch.rand(4, 4, dtype=torch.float64, requires_grad=True)


def with_buffer():
    module = nn.Linear(4, 4)
    module.register_buffer("scale", torch.ones(4, 4))
    return module


def with_integers():
    module = nn.Linear(4, 4)
    module.table = nn.Parameter(torch.zeros(4, dtype=torch.long), requires_grad=False)
    return module


def already():
    return constrained_linear(skew_exp)


def wrapped():
    return nn.Sequential(nn.Linear(4, 4))


def raises_attribute_error(x):
    return x.no_such_method()


def raises_value_error(x):
    raise ValueError("a complaint of f itself")


def linear():
    return nn.Linear(4, 4)


def has(name, value):
    """A module that uses ``name`` for something of its own."""

    def make():
        module = nn.Linear(4, 4)
        setattr(module, name, value)
        return module

    return make


def not_initialised():
    return nn.Linear.__new__(nn.Linear)


# name: (module, parameter, function, options, error, what the message must hold)
REGISTRATION = {
    "unknown_name": (linear, "wieght", skew_exp, {}, cp.RegistrationError, ["wieght", "'weight'"]),
    "unknown_far": (linear, "kernel", skew_exp, {}, cp.RegistrationError, ["kernel", "weight", "bias"]),
    "child_name": (wrapped, "0.weigth", skew_exp, {}, cp.RegistrationError, ["0.weigth"]),
    "no_bias": (lambda: nn.Linear(4, 4, bias=False), "bias", skew_exp, {}, cp.RegistrationError, ["bias"]),
    "buffer": (with_buffer, "scale", skew_exp, {}, cp.RegistrationError, ["scale", "nn.Parameter"]),
    "attribute": (linear, "in_features", skew_exp, {}, cp.RegistrationError, ["in_features"]),
    "method": (linear, "forward", skew_exp, {}, cp.RegistrationError, ["forward"]),
    "not_a_name": (linear, 3, skew_exp, {}, (cp.RegistrationError, TypeError), ["3"]),
    "already": (already, "weight", tanh_exp, {}, cp.RegistrationError, ["weight", "remove"]),
    "taken_x": (has("_weight_unconstrained", nn.Parameter(torch.ones(2))), "weight", skew_exp, {}, cp.RegistrationError,
                ["Linear", "'_weight_unconstrained'", "rename"]),
    "taken_cache": (has("_weight_cache", None), "weight", skew_exp, {}, cp.RegistrationError, ["'_weight_cache'"]),
    "taken_state": (has("_weight_base", 3.0), "weight", cp.Orthogonal(), {}, cp.RegistrationError, ["'_weight_base'"]),
    "taken_function": (has("_weight_function", nn.Tanh()), "weight", nn.Tanh(), {}, cp.RegistrationError,
                       ["'_weight_function'"]),
    "integer": (with_integers, "table", skew_exp, {}, cp.RegistrationError, ["int64"]),
    "meta": (lambda: nn.Linear(4, 4, device="meta"), "weight", skew_exp, {}, cp.RegistrationError, ["meta"]),
    "lazy": (lambda: nn.LazyLinear(4), "weight", skew_exp, {}, cp.RegistrationError, ["lazy", "run"]),
    "before_super_init": (not_initialised, "weight", skew_exp, {}, cp.RegistrationError,
                          ["Linear", "super().__init__()"]),
    "not_a_module": (lambda: nn.Parameter(torch.rand(4, 4)), "weight", skew_exp, {},
                     (cp.RegistrationError, TypeError), ["Parametrized"]),
    "not_callable": (linear, "weight", 3.0, {}, cp.RegistrationError, ["3.0"]),
    "none": (linear, "weight", None, {}, cp.RegistrationError, ["None"]),
    "update": (linear, "weight", skew_exp, {"update": "autp"}, cp.RegistrationError, ["autp", "auto", "manual", "verified"]),
    "raises": (linear, "weight", raises_value_error, {}, ValueError, ["a complaint of f itself"]),
    "raises_attribute": (linear, "weight", raises_attribute_error, {}, AttributeError, ["no_such_method"]),
    "returns_none": (linear, "weight", lambda x: None, {}, cp.FunctionError, ["None"]),
    "returns_number": (linear, "weight", lambda x: 2.0, {}, cp.FunctionError, ["float"]),
    "returns_tuple": (linear, "weight", lambda x: (x, x), {}, cp.FunctionError, ["tuple"]),
    "nan": (linear, "weight", lambda x: (-1 - x.abs()).log(), {}, cp.FunctionError, ["nan"]),
    "inf": (linear, "weight", lambda x: (x - x).log(), {}, cp.FunctionError, ["finite"]),
    "dtype": (linear, "weight", lambda x: x.float(), {}, cp.FunctionError, ["float32", "float64"]),
    "integer_result": (linear, "weight", lambda x: x.long(), {}, cp.FunctionError, ["int64"]),
    "device": (linear, "weight", lambda x: x.to("meta"), {}, cp.FunctionError, ["meta", "cpu"]),
    "sparse_result": (linear, "weight", lambda x: x.to_sparse(), {}, cp.FunctionError, ["sparse_coo", "to_dense()"]),
    "closure_parameter": (linear, "weight", lambda x: torch.tanh(x) @ other.weight, {},
                          cp.CapturedTensor, ["nn.Module"]),
    "closure_tensor": (linear, "weight", lambda x: x * trainable, {}, cp.CapturedTensor, ["nn.Module"]),
    "closure_nonleaf": (linear, "weight", lambda x: x * trainable.exp(), {}, cp.CapturedTensor, ["nn.Module"]),
    "closure_detached_x": (linear, "weight", lambda x: x.detach() + trainable, {}, cp.CapturedTensor, ["nn.Module"]),
    "set_class": (linear, "weight", "class", {}, cp.RegistrationError, ["Orthogonal()"]),
    "module_class": (linear, "weight", nn.Tanh, {}, cp.RegistrationError, ["Tanh()"]),
}  # fmt: skip


@pytest.mark.parametrize("row", REGISTRATION.values(), ids=REGISTRATION)
def test_registration(row):
    make, name, function, options, error, words = row
    module = make()
    if function == "class":
        function = cp.Orthogonal
    whole = isinstance(module, nn.Module) and "_parameters" in vars(module)
    before = fingerprint(module) if whole else None
    with pytest.raises(error) as caught:
        cp.register_constrained_parameter(module, name, function, **options)
    message = str(caught.value).lower()
    for word in words:
        assert word.lower() in message, message
    if before is not None:
        assert_untouched(module, before)


@pytest.mark.parametrize("name", ["unknown_name", "raises", "nan", "closure_parameter", "dtype"])
def test_the_remedy_can_be_executed_afterwards(name):
    """All or nothing: the same module is registered without trouble after the error."""
    make, parameter, function, options, _, _ = REGISTRATION[name]
    module = make()
    start = copy.deepcopy(module)
    with pytest.raises(Exception):  # noqa: B017, PT011 (the rows above test the classes)
        cp.register_constrained_parameter(module, parameter, function, **options)
    cp.register_constrained_parameter(module, "weight", skew_exp)
    equal(module.weight, skew_exp(start.weight))
    assert_fresh(module, skew_exp)


def test_the_same_function_again_changes_nothing():
    f = Counting(skew_exp)
    layer = constrained_linear(f)
    before = fingerprint(layer)
    assert cp.register_constrained_parameter(layer, "weight", f) is layer
    assert_untouched(layer, before)
    assert_fresh(layer, skew_exp)


def test_an_equal_set_again_changes_nothing():
    layer = constrained_linear(cp.Orthogonal())
    before = fingerprint(layer)
    cp.register_constrained_parameter(layer, "weight", cp.Orthogonal())
    assert_untouched(layer, before)
    with pytest.raises(cp.RegistrationError, match="remove"):
        cp.register_constrained_parameter(layer, "weight", cp.Orthogonal(map="cayley"))
    assert_untouched(layer, before)


def test_project_false_refuses_a_value_off_the_set():
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.full((4, 4), 0.5))
        layer.weight[0, 1] = 4.0
    before = fingerprint(layer)
    with pytest.raises(cp.ConstraintViolation) as error:
        cp.register_constrained_parameter(layer, "weight", cp.Interval(-1.0, 1.0), project=False)
    message = str(error.value)
    assert "project=True" in message or "project(" in message, message
    assert any(abs(n - 3.0) < 1e-3 for n in numbers(message)), message
    assert_untouched(layer, before)
    cp.register_constrained_parameter(layer, "weight", cp.Interval(-1.0, 1.0))
    assert layer.weight.abs().max() <= 1.0


def test_project_true_logs_the_distance_moved(caplog):
    layer = nn.Linear(4, 4)
    old = layer.weight.detach().clone()
    with caplog.at_level("INFO"):
        cp.register_constrained_parameter(layer, "weight", cp.Orthogonal())
    moved = (layer.weight.detach() - old).norm().item()
    assert "%" in caplog.text
    assert any(abs(n - moved) < 0.01 * moved for n in numbers(caplog.text)), (moved, caplog.text)


def test_a_value_on_the_set_is_kept_and_nothing_logged(caplog):
    layer = nn.Linear(4, 4)
    nn.init.orthogonal_(layer.weight)
    old = layer.weight.detach().clone()
    with caplog.at_level("INFO"):
        cp.register_constrained_parameter(layer, "weight", cp.Orthogonal(), project=False)
    equal(layer.weight, old, rtol=0, atol=1e-13)
    assert "%" not in caplog.text


@pytest.mark.parametrize("shape", [(3, 3), (4,), (4, 4, 1), ()])
def test_wrong_shape_on_assignment(shape):
    layer = constrained_linear(Symmetric())
    before = fingerprint(layer)
    with pytest.raises(cp.ShapeError) as error:
        layer.weight = torch.zeros(shape)
    assert str(tuple(shape)) in str(error.value) and "(4, 4)" in str(error.value)
    assert_untouched(layer, before)
    assert_fresh(layer, Symmetric())


@pytest.mark.parametrize("value", [3.0, "eye", None])
def test_assigning_something_else_than_a_tensor(value):
    layer = constrained_linear(Symmetric())
    before = fingerprint(layer)
    with pytest.raises((cp.ConstraintError, TypeError), match="weight"):
        layer.weight = value
    assert_untouched(layer, before)


@pytest.mark.parametrize("function", [Symmetric(), cp.Symmetric()])
def test_assigning_a_sparse_tensor(function):
    layer = constrained_linear(function)
    before = fingerprint(layer)
    with pytest.raises(cp.ConstraintError, match=r"sparse_coo.*value\.to_dense\(\)"):
        layer.weight = torch.eye(4).to_sparse()
    assert_untouched(layer, before)
    layer.weight = torch.eye(4).to_sparse().to_dense()


def test_off_the_set_on_assignment():
    layer = constrained_linear(cp.Interval(-1.0, 1.0))
    before = fingerprint(layer)
    with pytest.raises(cp.ConstraintViolation) as error:
        layer.weight = torch.full((4, 4), 1.0) + 2.0 * torch.eye(4)
    assert "weight" in str(error.value)
    assert_untouched(layer, before)


def test_an_error_of_f_at_a_later_read_surfaces_as_itself():
    fail = []

    def f(x):
        if fail:
            raise fail[0]
        return x.tanh()

    layer = constrained_linear(f)
    for error in (AttributeError("mine: no attribute 'foo'"), ValueError("mine"), KeyError("mine")):
        fail[:] = [error]
        change(layer._weight_unconstrained)
        with pytest.raises(type(error), match="mine") as caught:
            layer(torch.rand(2, 4))
        assert caught.value is error
    fail.clear()
    assert_fresh(layer, torch.tanh)


def test_a_closure_that_starts_to_train_later():
    w = torch.rand(4, 4)
    layer = constrained_linear(lambda x: x.tanh() * w)
    _ = layer.weight
    w.requires_grad_(True)
    change(layer._weight_unconstrained)
    with pytest.raises(cp.CapturedTensor, match=r"nn\.Module"):
        _ = layer.weight


def test_a_stale_optimizer_raises_at_its_step():
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    old = layer.weight
    cp.register_constrained_parameter(layer, "weight", PackedSymmetric(4))
    x = layer._weight_unconstrained.detach().clone()
    loss_of(layer.weight).backward()
    with pytest.raises(cp.StaleOptimizer, match="replaced"):
        optimizer.step()
    equal(layer._weight_unconstrained, x)
    assert old is not layer._weight_unconstrained
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert_fresh(layer, PackedSymmetric(4))


def test_a_fresh_optimizer_elsewhere_is_not_disturbed_by_a_replaced_parameter():
    layer, free = nn.Linear(4, 4), nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
    cp.register_constrained_parameter(layer, "weight", PackedSymmetric(4))
    free(torch.rand(2, 4)).sum().backward()
    torch.optim.SGD(free.parameters(), lr=0.1).step()


def test_an_optimizer_stepping_with_sums_pending():
    layer = constrained_linear()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    x = layer._weight_unconstrained.detach().clone()
    with cp.deferred_pullback(layer):
        loss_of(layer.weight).backward()
    with pytest.raises(cp.PendingGradients) as error:
        optimizer.step()
    assert "weight" in str(error.value) and "discard" in str(error.value)
    equal(layer._weight_unconstrained, x)


QUESTIONS = {
    "remove": lambda m, n: cp.remove_constrained_parameter(m, n),
    "updated": lambda m, n: cp.updated(m, n),
    "temporarily": lambda m, n: cp.temporarily(m, n, torch.eye(4)).__enter__(),
}


@pytest.mark.parametrize("name", ["bias", "wieght"])
@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
def test_asking_for_what_is_not_constrained(ask, name):
    layer = nn.Linear(4, 4)
    cp.register_constrained_parameter(layer, "weight", skew_exp)
    before = fingerprint(layer)
    with pytest.raises(cp.ConstraintError, match=name):
        ask(layer, name)
    assert_untouched(layer, before)


def test_is_constrained_answers_without_raising():
    layer = constrained_linear()
    assert cp.is_constrained(layer) and cp.is_constrained(layer, "weight")
    assert not cp.is_constrained(layer, "bias")
    assert not cp.is_constrained(nn.Linear(2, 2)) and not cp.is_constrained(
        nn.Linear(2, 2), "weight"
    )
    assert cp.constraint_of(layer, "weight") is skew_exp


def test_no_error_of_the_library_is_an_attribute_error():
    errors = [getattr(cp, n) for n in cp.__all__ if n[0].isupper()]
    errors = [e for e in errors if isinstance(e, type) and issubclass(e, Exception)]
    assert len(errors) >= 9
    for error in errors:
        assert issubclass(error, cp.ConstraintError) and not issubclass(error, AttributeError)
    assert issubclass(cp.ConstraintViolation, ValueError)
