"""bake: plain parameters, original classes, the same outputs."""

import copy
import gc
import io
import pickle

import pytest
import torch
from torch import nn
from torch.profiler import profile
from torch.testing import assert_close

import constrainedparams as cp

from .models import (
    PATTERNS,
    WORDS,
    Net,
    Noisy,
    Packed,
    Softened,
    assert_same,
    constrained_net,
    tanh,
    values,
)


@pytest.fixture(params=[False, True], ids=["copy", "inplace"])
def inplace(request):
    return request.param


def step(model, optimizer=None, lr=0.3):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=lr)
    optimizer.zero_grad()
    model(WORDS).square().sum().backward()
    optimizer.step()


def trained_net():
    model = constrained_net()
    step(model)
    return model


@pytest.mark.parametrize("training", [True, False])
def test_the_plain_model(inplace, training):
    model = trained_net().train(training)
    want = model(WORDS).detach()
    y, y_names = model.encoder[0].inner.weight.detach().clone(), list(cp.summary(model))
    plain = cp.bake(model, inplace=inplace)
    assert (plain is model) == inplace
    assert_close(plain(WORDS), want, rtol=0, atol=0)
    assert torch.equal(plain.encoder[0].inner.weight, y)
    fresh = Net()
    assert [type(m) for m in plain.modules()] == [type(m) for m in fresh.modules()]
    assert [list(vars(m)) for m in plain.modules()] == [list(vars(m)) for m in fresh.modules()]
    assert list(plain.state_dict()) == list(fresh.state_dict())
    assert not cp.is_constrained(plain)
    assert all(type(p) is nn.Parameter and p.is_leaf for p in plain.parameters())
    named = dict(plain.named_parameters())
    assert all(named[n].grad is None for n in y_names)  # they were gradients in x
    assert all(m.training is training for m in plain.modules())
    fresh.load_state_dict(plain.state_dict(), strict=True)
    assert_close(fresh.train(training)(WORDS), want, rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_a_copy_leaves_the_model_as_it_was(training):
    model = trained_net().train(training)
    held = dict(model.named_parameters())
    numbers = {name: v.clone() for name, v in model.state_dict().items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in held.items()}
    plain = cp.bake(model)
    assert list(cp.summary(model)) and all(
        cp.statistics(model)[n].pullbacks == 1 for n in cp.summary(model)
    )
    for name, p in model.named_parameters():
        assert p is held[name]
        assert p.grad is None or torch.equal(p.grad, grads[name])
    assert all(torch.equal(v, numbers[name]) for name, v in model.state_dict().items())
    assert not {id(p) for p in plain.parameters()} & {id(p) for p in held.values()}
    with torch.no_grad():
        for p in plain.parameters():
            p.zero_()
    assert all(torch.equal(v, numbers[name]) for name, v in model.state_dict().items())
    step(model)
    assert max(d for d in cp.violations(model).values() if d is not None) < 1e-12


def test_a_set_is_not_evaluated_with_a_graph_and_nothing_is_kept():
    model = nn.Sequential(nn.Linear(4, 4))
    cp.register_constrained_parameters(model, {"*.weight": cp.Orthogonal()})
    before = values(model)
    cp.bake(model)
    assert_same(model, before)
    assert model[0]._weight_cache is None


def test_agrees_with_plain_state_dict(inplace):
    model = trained_net()
    want = cp.plain_state_dict(model)
    got = cp.bake(model, inplace=inplace).state_dict()
    assert list(got) == list(want)
    assert all(torch.equal(got[key], want[key]) for key in want)


KINDS = {
    "linear": (lambda: nn.Linear(4, 4), "weight", lambda m: m(torch.ones(2, 4))),
    "conv": (lambda: nn.Conv2d(2, 2, 3), "weight", lambda m: m(torch.ones(1, 2, 4, 4))),
    "gru": (lambda: nn.GRU(4, 4), "weight_hh_l0", lambda m: m(torch.ones(3, 1, 4))[0]),
    "lstm": (lambda: nn.LSTM(4, 4, 2), "weight_ih_l1", lambda m: m(torch.ones(3, 1, 4))[0]),
    "attention": (lambda: nn.MultiheadAttention(4, 2), "in_proj_weight",
                  lambda m: m(*[torch.ones(3, 1, 4)] * 3)[0]),
    "batchnorm": (lambda: nn.BatchNorm1d(4).eval(), "weight", lambda m: m(torch.ones(2, 4))),
    "list": (lambda: nn.ParameterList([torch.rand(3)]), "0", lambda m: m[0].sin()),
    "parametrized": (lambda: cp.bake(cp.Parametrized(torch.rand(3), tanh)), "y", lambda m: m()),
}  # fmt: skip


@pytest.mark.parametrize(("make", "name", "run"), KINDS.values(), ids=KINDS)
def test_kinds_of_modules(make, name, run, inplace):
    module = make()
    plain, order = copy.deepcopy(module), [n for n, _ in module.named_parameters()]
    cp.register_constrained_parameter(module, name, tanh)
    want = run(module).detach()
    baked = cp.bake(module, inplace=inplace)
    assert_close(run(baked).detach(), want, rtol=0, atol=0)
    assert type(baked) is type(plain) and [n for n, _ in baked.named_parameters()] == order
    plain.load_state_dict(baked.state_dict())
    run(baked).sum().backward()
    run(plain).sum().backward()
    for one, two in zip(baked.parameters(), plain.parameters(), strict=True):
        assert_close(one.grad, two.grad)


def test_a_function_with_parameters_and_a_buffer(inplace):
    layer = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", Softened())
    want = layer.weight.detach().clone()
    plain = cp.bake(layer, inplace=inplace)
    assert list(plain.state_dict()) == ["weight", "bias"] and not list(plain.children())
    assert torch.equal(plain.weight, want)


@pytest.mark.parametrize("read_before", [True, False])
def test_a_random_function_is_drawn_once_for_both(read_before):
    layer = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", Noisy())
    with torch.no_grad():
        layer._weight_unconstrained.add_(1.0)
    if read_before:
        _ = layer.weight
    assert torch.equal(cp.bake(layer).weight, layer.weight)


def test_frozen_stays_frozen(inplace):
    model = trained_net()
    model.encoder.requires_grad_(False)
    plain = cp.bake(model, inplace=inplace)
    assert {n for n, p in plain.named_parameters() if not p.requires_grad} == {
        n for n, _ in Net().named_parameters() if n.startswith("encoder")
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(inplace, dtype):
    layer = cp.register_constrained_parameter(
        nn.Linear(4, 4, dtype=dtype), "weight", cp.Orthogonal()
    )
    want = layer.weight.detach().clone()
    plain = cp.bake(layer, inplace=inplace)
    assert plain.weight.dtype == dtype and torch.equal(plain.weight, want)


def test_a_model_without_constraints(inplace):
    model = Net()
    before = values(model)
    plain = cp.bake(model, inplace=inplace)
    assert_same(model, before)
    assert (plain is model) == inplace
    assert all(
        torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True)
    )


def test_a_shared_module(inplace):
    layer = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", cp.Orthogonal())
    model = nn.Sequential(layer, nn.Tanh(), layer)
    want = model(torch.ones(3)).detach()
    plain = cp.bake(model, inplace=inplace)
    assert plain[0] is plain[2] and type(plain[0]) is nn.Linear
    assert torch.equal(plain(torch.ones(3)), want)


class Tied(nn.Module):
    """Words and scores with one matrix."""

    def __init__(self):
        super().__init__()
        self.words, self.scores = nn.Embedding(6, 3), nn.Linear(3, 6, bias=False)
        self.scores.weight = self.words.weight

    def forward(self, words):
        return self.scores(self.words(words))


@pytest.mark.parametrize("read_before", [True, False])
def test_tied_parameters_stay_tied(inplace, read_before):
    model = Tied()
    cp.register_constrained_parameter(model.words, "weight", cp.Sphere())
    cp.share_constrained_parameter(model.words, "weight", model.scores)
    with torch.no_grad():
        model.words._weight_unconstrained.mul_(2.0).add_(0.1)
    want = torch.nn.functional.normalize(model.words._weight_unconstrained.detach())
    if read_before:
        model(WORDS)
    plain = cp.bake(model, inplace=inplace)
    assert_close(plain.words.weight.detach(), want)
    assert plain.words.weight is plain.scores.weight
    assert len(list(plain.parameters())) == 1 and not cp.is_constrained(plain)
    Tied().load_state_dict(plain.state_dict())
    if not inplace:
        assert model.words.weight is model.scores.weight and cp.is_constrained(model)


def test_a_tie_that_leads_out_of_what_is_baked():
    model = Tied()
    cp.register_constrained_parameter(model.words, "weight", cp.Sphere())
    cp.share_constrained_parameter(model.words, "weight", model.scores)
    with torch.no_grad():
        model.words._weight_unconstrained.mul_(2.0)
    want = model.words.weight.detach().clone()
    cp.bake(model.words, inplace=True)
    assert_close(model.words.weight.detach(), want)
    assert_close(model.scores.weight.detach(), want)
    assert cp.is_constrained(model.scores) and not cp.is_constrained(model.words)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(WORDS).square().sum().backward()
    optimizer.step()  # x is still in use
    assert not torch.equal(model.scores.weight, want)


def test_an_optimiser_goes_on_with_the_plain_parameters():
    model = trained_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    cp.bake(model, inplace=True)
    plain = Net()
    plain.load_state_dict(model.state_dict())
    other = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        step(model, optimizer)
        step(plain, other)
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, two)


def test_an_optimiser_with_an_x_of_another_shape_raises():
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3))
    cp.register_constrained_parameter(layer, "weight", Packed(3))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    cp.bake(layer)
    optimizer.step()
    cp.bake(layer, inplace=True)
    assert layer.weight.shape == (3, 3)
    with pytest.raises(cp.StaleOptimizer, match=r"Linear\.weight"):
        optimizer.step()


# what was written, collected or wrapped before ----------------------------------------------------


def test_a_write_into_y_is_baked(inplace):
    layer = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", cp.Orthogonal())
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3).flip(0))
    plain = cp.bake(layer, inplace=inplace)
    assert_close(plain.weight.detach(), torch.eye(3).flip(0))


def test_a_write_off_the_set_is_refused(inplace):
    model = trained_net()
    model(WORDS)
    with torch.no_grad():
        model.encoder[1].inner.weight.mul_(2.0)
    with pytest.raises(cp.ConstraintViolation, match="away from Orthogonal"):
        cp.bake(model, inplace=inplace)
    assert len(cp.summary(model)) == 5
    cp.bake(model, inplace=inplace)  # the last good value was kept


def test_pending_sums_are_refused(inplace):
    model = constrained_net()
    block = cp.deferred_pullback(model)
    with block:
        model(WORDS).square().sum().backward()
    before = values(model)
    with pytest.raises(cp.PendingGradients, match=r"`scale`.*discard"):
        cp.bake(model, inplace=inplace)
    assert_same(model, before)
    block.discard()
    assert not cp.is_constrained(cp.bake(model, inplace=inplace))


def test_a_wrapped_model_is_refused_in_place_and_copied():
    model = constrained_net()
    wrapper = torch.compile(model)
    with pytest.raises(cp.RegistrationError, match="OptimizedModule"):
        cp.bake(model, inplace=True)
    assert len(cp.summary(model)) == 5
    assert not cp.is_constrained(cp.bake(model))
    del wrapper


def test_all_or_nothing_in_place():
    model = constrained_net()
    wrapper = torch.compile(model.encoder[1])
    with pytest.raises(cp.RegistrationError, match="OptimizedModule"):
        cp.bake(model, inplace=True)
    assert len(cp.summary(model)) == 5
    del wrapper


@pytest.mark.parametrize("wrong", [None, torch.zeros(2), {}])
def test_not_a_module(wrong):
    with pytest.raises(cp.RegistrationError, match=r"expected an nn\.Module"):
        cp.bake(wrong)


def test_a_temporary_value_is_baked_into_a_copy():
    layer = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", cp.Orthogonal())
    with cp.temporarily(layer, "weight", torch.zeros(3, 3)):
        plain = cp.bake(layer)
    assert not plain.weight.any() and cp.violations(layer)["weight"] < 1e-12


# what comes after ---------------------------------------------------------------------------------


def test_save_and_load_elsewhere(inplace):
    model = trained_net()
    want = model(WORDS).detach()
    file = io.BytesIO()
    torch.save(cp.bake(model, inplace=inplace).state_dict(), file)
    file.seek(0)
    other = Net()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(WORDS), want)


def test_a_pickle_of_the_result_names_no_class_of_this_library(inplace):
    text = pickle.dumps(cp.bake(trained_net(), inplace=inplace))
    assert b"constrainedparams" not in text and b"_constrained" not in text
    assert isinstance(pickle.loads(text), Net)


def test_register_again(inplace):
    plain = cp.bake(trained_net(), inplace=inplace)
    found = cp.register_constrained_parameters(plain, PATTERNS)
    moved = {name: row.moved for name, row in found.items() if name != "head.bias"}
    assert max(moved.values()) < 1e-12  # the values are on their sets


# memory -------------------------------------------------------------------------------------------


def peak(work):
    """The most bytes of tensors that were allocated at once while work() ran, beyond the start."""
    with profile(profile_memory=True) as prof:
        work()
    now = most = 0
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("training", [True, False])
def test_in_place_takes_the_memory_of_one_layer(training):
    def work(layers, n=64):
        model = nn.Sequential(*(nn.Linear(n, n, bias=False) for _ in range(layers))).train(training)
        cp.register_constrained_parameters(model, {"*.weight": cp.Orthogonal()})
        gc.collect()
        return peak(lambda: cp.bake(model, inplace=True))

    work(1)
    one, many = work(1), work(12)
    # The exponential works with 8 matrices and a number: powers, sums, what a copy needs.
    assert 0 < many <= one < 9 * 64 * 64 * 8, (one, many)


def test_nothing_of_the_engine_stays_alive():
    model = trained_net()
    model(WORDS)
    cp.bake(model, inplace=True)
    gc.collect()
    ids = {id(p) for p in model.parameters()}
    slots = [o for o in gc.get_objects() if type(o).__name__ == "Record" and id(o.tensor) in ids]
    assert slots == []
