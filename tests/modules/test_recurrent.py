"""Recurrent modules keep a list of their weights: it follows the constrained ones everywhere."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import constrainedparams as cp

from .naive import OPTIMIZERS, ROWS, bounded, constrain, equal, loss_of, train, value, x_of, y_of

NAMES = [name for name, row in ROWS.items() if name.startswith(("rnn", "gru", "lstm")) and "cell" not in name]  # fmt: skip
BETWEEN = {
    "flatten": lambda m: m.flatten_parameters(),
    "apply": lambda m: m._apply(lambda t: t.clone()),
    "to": lambda m: m.to("cpu", torch.float64),
    "float_double": lambda m: m.float().double(),
    "load": lambda m: m.load_state_dict(copy.deepcopy(m.state_dict())),
    "load_assign": lambda m: m.load_state_dict(copy.deepcopy(m.state_dict()), assign=True),
    "eval_train": lambda m: m.eval().train(),
    "all_weights": lambda m: m.all_weights,
    "freeze_thaw": lambda m: m.requires_grad_(False).requires_grad_(True),
}


@pytest.mark.parametrize("event", BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("name", NAMES)
def test_the_flat_list_follows(name, event):
    """After any of these the output and gradients are those of f at the x that is there now."""
    model, naive = ROWS[name].pair()
    call = ROWS[name].call
    loss_of(call(model)).backward()
    event(model)
    with torch.no_grad():
        for n in model.state_dict():
            model.get_parameter(n).add_(0.1)
    for n, leaf in naive.leaves.items():
        x = x_of(model, n) if n in naive.functions else model.get_parameter(n)
        leaf.data.copy_(x)
    model.zero_grad()
    for m in (model, naive):
        torch.manual_seed(3)
        loss_of(call(m)).backward()
    naive.assert_same(model)


@pytest.mark.parametrize("name", NAMES)
def test_all_weights_are_the_constrained_ones(name):
    model, _ = ROWS[name].pair()
    ROWS[name].call(model)
    held = [w for layer in model.all_weights for w in layer]
    for n in ROWS[name].functions:
        assert any(w is y_of(model, n) for w in held), n
        assert not any(w is x_of(model, n) for w in held), n


def test_packed_sequences():
    model, naive = ROWS["lstm_deep"].pair()
    packed = pack_padded_sequence(torch.randn(5, 3, 3), torch.tensor([5, 3, 1]))
    for m in (model, naive):
        out, (h, c) = m(packed)
        loss_of((out.data, h, c)).backward()
    naive.assert_same(model)


def test_hidden_state_carried_over_steps():
    """Truncated backpropagation through time."""
    model, naive = ROWS["gru"].pair()
    steps = [OPTIMIZERS["adam"](m.parameters()) for m in (model, naive)]
    for m, optimizer in zip((model, naive), steps, strict=True):
        h = None
        for step in range(3):
            torch.manual_seed(step)
            optimizer.zero_grad()
            out, h = m(torch.randn(4, 2, 3), h)
            loss_of(out).backward()
            optimizer.step()
            h = h.detach()
    naive.assert_same(model)


def test_a_long_sequence_through_a_cell_evaluates_once():
    model, naive = ROWS["rnn_cell"].pair()
    inputs = torch.randn(100, 2, 3)
    for m in (model, naive):
        cell = m if m is model else _with_one_evaluation(m)
        h = torch.zeros(2, 4)
        for x in inputs:
            h = cell(x, h)
        loss_of(h).backward()
    naive.assert_same(model)
    for counts in cp.statistics(model).values():
        assert (counts.evaluations, counts.pullbacks) == (1, 1)


def _with_one_evaluation(naive):
    tensors = naive.tensors()
    return lambda *inputs: torch.func.functional_call(naive.module, tensors, inputs)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m))}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_the_flat_list_of_a_copy_is_its_own(copied):
    """Made between backward and step, when the list holds the graph of this step."""
    model, _ = ROWS["lstm_projected"].pair()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    loss_of(ROWS["lstm_projected"].call(model)).backward()
    twin = copied(model)
    held = {id(w) for layer in model.all_weights for w in layer}
    assert not held & {id(w) for layer in twin.all_weights for w in layer}
    before = value(twin.weight_hh_l0)
    optimizer.step()
    assert not torch.equal(model.weight_hh_l0, before)
    equal(twin.weight_hh_l0, before)
    train(twin, ROWS["lstm_projected"].call, OPTIMIZERS["sgd"](twin.parameters()))
    equal(twin.weight_hh_l0, bounded(x_of(twin, "weight_hh_l0")))


def test_an_orthogonal_recurrent_matrix_stays_orthogonal():
    model = constrain(nn.RNN(3, 6), {"weight_hh_l0": cp.Orthogonal()})
    start = value(model.weight_hh_l0)
    train(model, ROWS["rnn"].call, OPTIMIZERS["adam"](model.parameters()), range(5))
    q = value(model.weight_hh_l0)
    assert (q - start).norm() > 0.01
    equal(q @ q.t(), torch.eye(6))


@pytest.mark.parametrize("name", NAMES)
def test_the_step_lets_go_of_y_in_the_flat_list(name):
    """Between steps nothing but parameters lives; the list of the user's own keeps the value."""
    model, _ = ROWS[name].pair()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    loss_of(ROWS[name].call(model)).backward()
    own = [n for n in model._flat_weights_names if cp.is_constrained(model, n)]
    model.mine = [getattr(model, own[0])]
    memory = {getattr(model, n).untyped_storage()._cdata for n in own}
    optimizer.step()
    held = [w for w in model._flat_weights if w is not None]
    assert not memory & {w.untyped_storage()._cdata for w in held}
    assert type(model.mine[0]) is torch.Tensor and not model.mine[0].requires_grad
    model.flatten_parameters()
    ROWS[name].call(model)
    for weight, its in zip(model._flat_weights, model._flat_weights_names, strict=True):
        assert weight is getattr(model, its)
