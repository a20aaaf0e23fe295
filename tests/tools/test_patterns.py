"""register_constrained_parameters: by pattern over a whole model, all of it or nothing."""

import copy
import sys
import time

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import constrainedparams as cp

from .models import (
    PATTERNS,
    WORDS,
    Net,
    Packed,
    Softened,
    assert_same,
    constrained_net,
    tanh,
    values,
)


def names(model):
    return list(cp.statistics(model))


def test_patterns_choose_by_qualified_name():
    model = Net()
    found = cp.register_constrained_parameters(model, PATTERNS)
    wanted = [
        "embed.weight",
        "encoder.0.inner.weight",
        "encoder.1.inner.weight",
        "head.bias",
        "scale",
    ]
    assert sorted(found) == sorted(names(model)) == wanted
    assert cp.constraint_of(model.encoder[1].inner, "weight") == cp.Orthogonal()
    assert cp.constraint_of(model.head, "bias") is tanh
    assert found["encoder.0.inner.weight"].pattern == "encoder.*.inner.weight"
    assert found["scale"].function == cp.Positive() and found["scale"].shape == (3,)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    {
        "*.weight": ["0.weight", "1.0.weight", "1.1.weight"],  # `*` also matches dots
        "1.?.weight": ["1.0.weight", "1.1.weight"],
        "1.[!0].weight": ["1.1.weight"],
        "[01].weight": ["0.weight"],
        "0.bias": ["0.bias"],
        "*": ["0.weight", "0.bias", "1.0.weight", "1.0.bias", "1.1.weight"],
    }.items(),
)
def test_patterns_are_those_of_fnmatch(pattern, wanted):
    inner = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    model = nn.Sequential(nn.Linear(2, 2), inner)
    assert list(cp.register_constrained_parameters(model, {pattern: tanh})) == wanted
    assert names(model) == wanted


def test_a_parameter_of_the_root_has_no_dot():
    layer = nn.Linear(2, 2)
    with pytest.raises(cp.RegistrationError, match=r"'\*\.weight' matches no .*'weight'"):
        cp.register_constrained_parameters(layer, {"*.weight": tanh})
    assert list(cp.register_constrained_parameters(layer, {"*weight": tanh})) == ["weight"]


def test_as_one_by_one():
    """The same x, y and buffers as register_constrained_parameter gives, in the same order."""
    model, single = Net(), Net()
    single.load_state_dict(model.state_dict())
    cp.register_constrained_parameters(model, PATTERNS)
    for block in single.encoder:
        cp.register_constrained_parameter(block.inner, "weight", cp.Orthogonal())
    cp.register_constrained_parameter(single.embed, "weight", cp.Sphere())
    cp.register_constrained_parameter(single, "scale", cp.Positive())
    cp.register_constrained_parameter(single.head, "bias", tanh)
    assert [type(m) for m in model.modules()] == [type(m) for m in single.modules()]
    ours, theirs = model.state_dict(), single.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert torch.equal(model(WORDS), single(WORDS))


def test_parameters_keep_their_identity_and_an_earlier_optimiser_works():
    model = Net()
    before = list(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cp.register_constrained_parameters(model, PATTERNS)
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    old = model.encoder[0].inner.weight.detach().clone()
    model(WORDS).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.encoder[0].inner.weight, old)
    assert max(d for d in cp.violations(model).values() if d is not None) < 1e-12


def test_moved_is_what_the_value_moved_by(caplog):
    model = Net()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    with caplog.at_level("INFO", "constrainedparams"):
        found = cp.register_constrained_parameters(model, PATTERNS)
    for name, row in found.items():
        gap = (_value(model, name) - start[name]).norm().item()
        if name == "head.bias":
            assert row.moved is None and row.moved_percent is None
            continue
        assert_close(row.moved, gap, rtol=1e-9, atol=1e-12)
        assert_close(row.moved_percent, 100 * gap / start[name].norm().item(), rtol=1e-9, atol=1e-9)
        assert (f"{name} was moved by {row.moved:.3g}" in caplog.text) == (row.moved > 0)
    assert found["scale"].moved == 0 and found["encoder.0.inner.weight"].moved > 0


def _value(model, name):
    *path, last = name.split(".")
    return getattr(model.get_submodule(".".join(path)), last).detach()


def test_a_dry_run_says_the_same_and_changes_nothing(caplog):
    model = Net()
    model(WORDS).sum().backward()
    before = values(model)
    with caplog.at_level("INFO", "constrainedparams"):
        dry = cp.register_constrained_parameters(model, PATTERNS, dry_run=True)
    assert caplog.text == ""
    assert_same(model, before)
    assert dry == cp.register_constrained_parameters(model, PATTERNS)


def test_the_table_is_readable():
    model = Net()
    table = str(cp.register_constrained_parameters(model, PATTERNS, dry_run=True)).splitlines()
    assert table[0].split() == ["name", "function", "shape", "moved", "moved", "percent", "pattern"]
    assert len(table) == 2 + 5
    row = next(line for line in table if line.startswith("encoder.0.inner.weight"))
    assert "Orthogonal()" in row and "(4, 4)" in row and row.endswith("encoder.*.inner.weight")
    assert str(cp.register_constrained_parameters(model, {})) == "no constrained parameters"


def test_twice_is_once():
    model = constrained_net()
    before = values(model)
    again = cp.register_constrained_parameters(model, PATTERNS)
    assert_same(model, before)
    assert again["embed.weight"].moved > 0  # of the first time
    assert list(again) == list(cp.summary(model))


def test_what_f_owns_and_x_itself_are_not_matched():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    f = Softened()
    cp.register_constrained_parameters(model, {"*.weight": f})
    assert len(list(model.parameters())) == 5  # one sharpness for both
    found = cp.register_constrained_parameters(model, {"*.bias": tanh, "*t": f})
    assert list(found) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    with pytest.raises(cp.RegistrationError, match=r"0\._weight_unconstrained"):
        cp.register_constrained_parameters(model, {"0._weight_unconstrained": tanh})
    with pytest.raises(cp.RegistrationError, match="sharpness"):
        cp.register_constrained_parameters(model, {"*.sharpness": cp.Positive()})


def test_update_and_project_are_passed_on():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.raises(cp.ConstraintViolation, match=r"^0\.weight: .*away from Orthogonal"):
        cp.register_constrained_parameters(model, {"*.weight": cp.Orthogonal()}, project=False)
    for layer in model:
        nn.init.orthogonal_(layer.weight)
    cp.register_constrained_parameters(
        model, {"*.weight": cp.Orthogonal()}, update="manual", project=False
    )
    assert {row.update for row in cp.summary(model).values()} == {"manual"}


# refusals: everything is as it was ---------------------------------------------------------------


def raising(x):
    raise ValueError("a complaint of f itself")


class Final(type):
    """Lets nobody derive from its classes."""

    def __new__(cls, name, bases, namespace):
        if any(isinstance(base, Final) for base in bases):
            raise TypeError("Sealed is final")
        return super().__new__(cls, name, bases, namespace)


class Sealed(nn.Linear, metaclass=Final):
    pass


def tied():
    model = Net()
    model.head = nn.Linear(4, 6, bias=False)
    model.head.weight = model.embed.weight
    return model


def sealed():
    model = Net()
    model.head = Sealed(4, 3)
    return model


def convolution():
    return nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 3))


def partly():
    model = Net()
    cp.register_constrained_parameter(model.encoder[1].inner, "weight", tanh)
    return model


GOOD = {"encoder.*.inner.weight": cp.Orthogonal()}
REFUSED = {
    "matches_nothing": (Net, {**GOOD, "encodr.*.weight": tanh}, {}, cp.RegistrationError,
                        ["'encodr.*.weight'", "matches no parameter of Net", "encoder.0.norm.weight", "12 parameters"]),
    "a_module": (Net, {**GOOD, "encoder.0": tanh}, {}, cp.RegistrationError, ["'encoder.0'", "embed.weight"]),
    "two_patterns": (Net, {**GOOD, "*.1.*": tanh}, {}, cp.RegistrationError,
                     ["encoder.1.inner.weight", "'encoder.*.inner.weight'", "'*.1.*'", "Narrow"]),
    "shared": (tied, {**GOOD, "head.weight": cp.Sphere()}, {}, cp.RegistrationError,
               ["`embed.weight` and `head.weight`", "share_constrained_parameter"]),
    "shape": (Net, {**GOOD, "*.norm.weight": cp.Orthogonal()}, {}, cp.ShapeError, ["encoder.0.norm.weight", "(4,)"]),
    "project": (Net, {**GOOD, "head.weight": cp.Orthogonal()}, {"project": False}, cp.ConstraintViolation,
                ["encoder.0.inner.weight", "away"]),
    "f_raises": (Net, {**GOOD, "scale": raising}, {}, ValueError, ["a complaint of f itself"]),
    "not_finite": (Net, {**GOOD, "scale": lambda x: x / 0}, {}, cp.FunctionError, ["scale", "3 of 3"]),
    "class": (Net, {**GOOD, "scale": cp.Positive}, {}, cp.RegistrationError, ["scale", "Positive()"]),
    "captured": (Net, {**GOOD, "scale": lambda x, w=nn.Parameter(torch.ones(3)): x * w}, {}, cp.CapturedTensor,
                 ["scale", "nn.Module"]),
    "update": (Net, GOOD, {"update": "autp"}, cp.RegistrationError, ["autp", "'auto'"]),
    "convolution": (convolution, {"*.weight": cp.Orthogonal()}, {}, cp.RegistrationError, ["1.weight", "view="]),
    "another_function": (partly, {**GOOD, "scale": tanh}, {}, cp.RegistrationError,
                         ["encoder.1.inner.weight", "already", "remove_constrained_parameter"]),
    "sealed": (sealed, {**GOOD, "head.weight": tanh}, {}, TypeError, ["Sealed is final"]),
    "not_a_dict": (Net, ["scale"], {}, cp.RegistrationError, ["list", "dict", "Orthogonal()"]),
    "not_a_name": (Net, {3: tanh}, {}, cp.RegistrationError, ["3", "int", "str"]),
}  # fmt: skip


@pytest.mark.parametrize("row", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("dry_run", [False, True])
def test_refused_and_untouched(row, dry_run, caplog):
    make, patterns, options, error, words = row
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    before = values(model)
    with caplog.at_level("INFO"), pytest.raises(error) as caught:
        cp.register_constrained_parameters(model, patterns, dry_run=dry_run, **options)
    message = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    for word in words:
        assert word in message, message
    assert_same(model, before)
    assert [id(p) for p in model.parameters()] == held
    assert caplog.text == ""
    if make is not partly:
        assert not cp.is_constrained(model)
    cp.register_constrained_parameters(model, {"*.0.norm.weight": tanh} if make is not convolution
                                       else {"0.weight": cp.Orthogonal()})  # fmt: skip


def test_an_error_of_f_says_where():
    with pytest.raises(ValueError, match="a complaint") as caught:
        cp.register_constrained_parameters(Net(), {"scale": raising})
    assert "`scale`" in caught.value.__notes__[0]


def test_not_a_module():
    with pytest.raises(cp.RegistrationError, match=r"dict and dict; expected an nn.Module"):
        cp.register_constrained_parameters({}, {})


def test_the_remedy_for_shared_parameters():
    model = tied()
    cp.register_constrained_parameters(model, GOOD)
    cp.register_constrained_parameter(model.embed, "weight", cp.Sphere())
    cp.share_constrained_parameter(model.embed, "weight", model.head)
    assert model.head.weight is model.embed.weight
    found = cp.register_constrained_parameters(model, {"*d.weight": cp.Sphere()})
    assert list(found) == ["embed.weight", "head.weight"]


def test_a_shared_module_is_registered_once():
    layer = nn.Linear(3, 3)
    model = nn.ModuleDict({"a": layer, "b": layer, "c": nn.Linear(3, 3)})
    assert list(cp.register_constrained_parameters(model, {"*.weight": tanh})) == [
        "a.weight",
        "c.weight",
    ]
    layer = nn.Linear(3, 3)
    model = nn.ModuleDict({"a": layer, "b": layer})
    with pytest.raises(cp.RegistrationError, match="Narrow"):
        cp.register_constrained_parameters(model, {"a.weight": tanh, "b.weight": tanh})
    assert list(cp.register_constrained_parameters(model, {"b.weight": tanh})) == ["a.weight"]


def test_a_module_that_holds_its_parent():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].parent = model
    assert list(cp.register_constrained_parameters(model, {"0.weight": tanh})) == ["0.weight"]


def test_x_of_another_shape_retires_the_old_parameter():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3)), model[1].weight.copy_(torch.ones(3, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cp.register_constrained_parameters(model, {"*.weight": Packed(3)})
    assert [p.shape for p in model.parameters()] == [(6,), (3,), (6,), (3,)]
    with pytest.raises(cp.StaleOptimizer):
        optimizer.step()


def test_a_wrapped_model_is_refused():
    model = Net()
    wrapper = torch.compile(model)
    before = values(model)
    with pytest.raises(cp.RegistrationError, match="OptimizedModule"):
        cp.register_constrained_parameters(model, PATTERNS)
    assert_same(model, before)
    del wrapper


def test_copies_and_pickles_of_the_result():
    model = constrained_net()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(WORDS), model(WORDS))
    assert names(twin) == names(model)


def calls_while(work):
    """Python calls made by work(): a count that a busy machine does not change."""
    count = 0

    def profiler(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profiler)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("exact", [False, True])
def test_the_work_grows_with_the_number_of_layers_not_with_its_square(exact):
    def work(n):
        model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(n)))
        patterns = {f"{i}.weight": tanh for i in range(n)} if exact else {"*.weight": tanh}
        return calls_while(lambda: cp.register_constrained_parameters(model, patterns))

    work(2)
    assert work(400) < 4.4 * work(100)


def test_a_thousand_layers_take_a_moment():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(1000)))
    start = time.perf_counter()
    found = cp.register_constrained_parameters(model, {"*.weight": cp.Orthogonal()})
    assert len(found) == 1000 and time.perf_counter() - start < 30
