"""summary and violations: what they say is measured, and looking changes nothing."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import constrainedparams as cp

from .models import WORDS, Net, Noisy, Softened, assert_same, constrained_net, tanh, values


def defect(w):
    """|W W^T - I| in the Frobenius norm, by NumPy."""
    import numpy as np

    a = w.detach().numpy()
    return float(np.linalg.norm(a @ a.T - np.eye(len(a))))


def test_the_rows():
    model = Net()
    start = model.encoder[0].inner.weight.detach().clone()
    cp.register_constrained_parameter(model.encoder[0].inner, "weight", cp.Orthogonal(map="cayley"))
    cp.register_constrained_parameter(model, "scale", cp.Positive(), update="manual")
    cp.register_constrained_parameter(model.head, "bias", tanh, update="verified")
    model(WORDS)
    rows = cp.summary(model)
    assert list(rows) == ["scale", "encoder.0.inner.weight", "head.bias"]
    row = rows["encoder.0.inner.weight"]
    gap = (model.encoder[0].inner.weight.detach() - start).norm()
    assert (row.function, row.shape, row.update) == (cp.Orthogonal(map="cayley"), (4, 4), "auto")
    assert row.dimension == 6  # n (n - 1) / 2
    assert_close(row.moved, gap.item(), rtol=1e-9, atol=0)
    assert_close(row.moved_percent, 100 * gap.item() / start.norm().item(), rtol=1e-9, atol=0)
    assert 0 <= row.distance < 1e-13 and row.evaluations == 1
    assert row.decay_target == cp.Orthogonal().decay_target
    row = rows["scale"]
    assert (row.dimension, row.distance, row.update) == (3, 0.0, "manual")
    row = rows["head.bias"]
    assert (row.dimension, row.distance, row.moved, row.decay_target) == (None,) * 4
    assert row.update == "verified" and row.evaluations == 1
    assert cp.violations(model) == {name: row.distance for name, row in rows.items()}


def test_evaluations_and_distance_follow_training():
    model = constrained_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(WORDS).square().sum().backward()
        optimizer.step()
    row = cp.summary(model)["encoder.1.inner.weight"]
    assert row.evaluations == 3
    w = model.encoder[1].inner.weight
    assert_close(row.distance, defect(w), rtol=0, atol=1e-14)
    assert row.distance < 1e-13


def test_the_table_is_readable():
    model = constrained_net()
    text = str(cp.summary(model))
    assert text == repr(cp.summary(model))
    head, rule, *body = text.splitlines()
    assert set(rule) == {"-", " "} and len(body) == 5
    columns = [
        i for i, (a, b) in enumerate(zip(" " + rule, rule, strict=False)) if a == " " and b == "-"
    ]
    cells = {line[: columns[1]].strip(): [line[a:b].strip() for a, b in zip(columns, [*columns[1:], None], strict=True)]
             for line in body}  # fmt: skip
    row = dict(zip([head[a:b].strip() for a, b in zip(columns, [*columns[1:], None], strict=True)],
                   cells["encoder.0.inner.weight"], strict=True))  # fmt: skip
    assert row["function"] == "Orthogonal()" and row["shape"] == "(4, 4)"
    assert row["dimension"] == "6" and row["update"] == "auto"
    assert float(row["moved percent"]) > 0 and "base" in row["decay target"]
    assert cells["head.bias"][3:7] == ["-"] * 4
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_nothing_constrained():
    assert cp.summary(Net()) == {} and cp.violations(Net()) == {}
    assert str(cp.summary(nn.Tanh())) == "no constrained parameters"


def test_names_in_a_tied_model():
    model = constrained_net()
    model.tail = nn.Linear(4, 6, bias=False)
    cp.share_constrained_parameter(model.embed, "weight", model.tail)
    rows = cp.summary(model)
    assert "embed.weight" in rows and "tail.weight" not in rows  # one parameter, one row
    assert cp.violations(model)["tail.weight"] == cp.violations(model)["embed.weight"]


STATES = {
    "fresh": lambda m: m(WORDS),
    "never_read": lambda m: None,
    "after_a_step": lambda m: step(m),
    "in_eval": lambda m: m.eval(),
    "in_eval_read": lambda m: no_grad_read(m.eval()),
    "frozen": lambda m: m.requires_grad_(False),
    "half_a_step": lambda m: m(WORDS).sum().backward(),
}


def step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(WORDS).square().sum().backward()
    optimizer.step()


def no_grad_read(model):
    with torch.no_grad():
        model(WORDS)


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
@pytest.mark.parametrize("look", [cp.summary, cp.violations], ids=["summary", "violations"])
def test_looking_leaves_no_trace(state, look):
    model = constrained_net()
    cp.register_constrained_parameter(
        model.encoder[0].norm, "bias", cp.Interval(-1.0, 1.0), "verified"
    )
    cp.register_constrained_parameter(model.encoder[0].norm, "weight", Softened())
    cp.register_constrained_parameter(model.encoder[1].norm, "bias", Noisy())
    state(model)
    before = values(model)
    cached = model.embed._weight_cache, model.encoder[0].norm._weight_cache
    assert len(look(model)) == 8
    assert_same(model, before)
    assert model.embed._weight_cache is cached[0]
    assert model.encoder[0].norm._weight_cache is cached[1]


def test_a_later_gradient_is_not_lost():
    model = constrained_net()
    cp.violations(model)
    model(WORDS).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_write_into_y_is_shown_before_it_is_noticed():
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", cp.Orthogonal())
    with torch.no_grad():
        layer.weight.mul_(3.0)
    x = layer._weight_unconstrained.detach().clone()
    got = cp.violations(layer)["weight"]
    assert_close(got, 8 * 2.0)  # |9 I - I| in four dimensions
    assert cp.summary(layer)["weight"].distance == got
    assert torch.equal(layer._weight_unconstrained, x)
    with pytest.raises(cp.ConstraintViolation, match="16"):
        layer(torch.ones(4))
    assert cp.violations(layer)["weight"] < 1e-13


def test_an_evaluation_is_not_repeated():
    """A cached value is looked at as it is; without one the map runs, in sets that can be counted."""
    calls = []

    class Counted(cp.Sphere):
        def _forward(self, x, **state):
            calls.append(1)
            return x / x.norm(dim=-1, keepdim=True)

    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", Counted())
    _ = layer.weight
    calls.clear()
    cp.violations(layer)
    assert calls == []
    with torch.no_grad():
        layer._weight_unconstrained.mul_(2.0)
    cp.violations(layer)
    assert calls == [1] and layer._weight_cache is None


def test_manual_mode_shows_what_a_read_gives():
    layer = nn.Linear(4, 4)
    cp.register_constrained_parameter(layer, "weight", cp.NonNegative(), update="manual")
    held = layer.weight
    with torch.no_grad():
        layer._weight_unconstrained.fill_(float("nan"))
    assert cp.violations(layer)["weight"] == 0.0
    held.updated()
    assert cp.violations(layer)["weight"] == float("inf")


def test_temporarily():
    layer = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", cp.Orthogonal())
    with cp.temporarily(layer, "weight", 2 * torch.eye(4)):
        assert_close(cp.violations(layer)["weight"], 6.0)
    assert cp.violations(layer)["weight"] < 1e-13


def test_batches_give_the_largest_residual():
    w = cp.Parametrized(torch.eye(3).expand(2, 3, 3), cp.Orthogonal())
    with torch.no_grad():
        w.y[1].mul_(2.0)
    assert_close(cp.violations(w)["y"], defect(2 * torch.eye(3)))


def test_no_entries_and_no_values():
    assert cp.violations(cp.Parametrized(torch.zeros(0, 3), cp.Sphere())) == {"y": 0.0}
    model = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", cp.Orthogonal()).to("meta")
    assert cp.violations(model) == {"weight": None}
    assert cp.summary(model)["weight"].dimension == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64])
def test_dtypes(dtype):
    layer = cp.register_constrained_parameter(
        nn.Linear(4, 4, dtype=dtype), "weight", cp.Orthogonal()
    )
    row = cp.summary(layer)["weight"]
    assert row.dimension == (16 if dtype.is_complex else 6)
    assert row.distance <= cp.Orthogonal().tolerance(layer.weight)


def test_under_inference_mode_and_autocast():
    layer = cp.register_constrained_parameter(nn.Linear(8, 8).float(), "weight", cp.Orthogonal())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert cp.violations(layer)["weight"] < 1e-5


def test_of_a_copy():
    model = constrained_net()
    twin = copy.deepcopy(model)
    ours, theirs = cp.summary(model)["embed.weight"], cp.summary(twin)["embed.weight"]
    assert (ours.function, ours.shape, ours.distance) == (
        theirs.function,
        theirs.shape,
        theirs.distance,
    )
    assert theirs.evaluations == 0
