"""batch: many layers evaluated as one are what each is alone, in every way that models are handled."""

import copy
import gc
import io
import logging
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import constrainedparams as cp

COUNT = 4
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


class Net(nn.Module):
    """Layers one after the other; ``skip`` are not read."""

    def __init__(self, shape=(3, 3), count=COUNT, dtype=torch.float64):
        super().__init__()
        self.layers = nn.ModuleList(nn.Module() for _ in range(count))
        for layer in self.layers:
            layer.register_parameter("weight", nn.Parameter(torch.randn(shape, dtype=dtype)))

    def forward(self, skip=()):
        weights = [layer.weight for i, layer in enumerate(self.layers) if i not in skip]
        return loss_of(weights)


def loss_of(weights):
    """Couples all weights, linear in none."""
    flat = [w.flatten()[:9] for w in weights]
    return sum((a * b + a).sin().sum() for a, b in zip(flat, [*flat[1:], flat[0]], strict=True))


def net(function=None, shape=(3, 3), batched=True, **options):
    function = cp.Orthogonal() if function is None else function
    torch.manual_seed(0)
    model = Net(shape)
    for layer in model.layers:
        cp.register_constrained_parameter(layer, "weight", function, **options)
        with torch.no_grad():
            layer._weight_unconstrained.add_(0.3 * torch.randn_like(layer._weight_unconstrained))
    return cp.batch(model) if batched else model


def naive(model, skip=()):
    """Loss, values and gradients with f evaluated inline on clones of x."""
    xs, ys = [], []
    for layer in model.layers:
        x = layer._weight_unconstrained.detach().clone()
        xs.append(x.requires_grad_(layer._weight_unconstrained.requires_grad))
        state = {"base": layer._weight_base} if hasattr(layer, "_weight_base") else {}
        ys.append(cp.constraint_of(layer, "weight")(x, **state))
    used = [y for i, y in enumerate(ys) if i not in skip]
    loss = loss_of(used)
    wanted = [x for x in xs if x.requires_grad]
    grads = iter(torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else ())
    return loss.detach(), ys, [next(grads) if x.requires_grad else None for x in xs]


def xs_of(model):
    return [layer._weight_unconstrained for layer in model.layers]


def check(model, skip=(), **close):
    """Loss, values and gradients of ``model`` are the naive ones."""
    close = close or CLOSE
    model.zero_grad()
    _ = [layer.weight for layer in model.layers]  # carries writes to y and mends bases
    loss, ys, grads = naive(model, skip)
    got = model(skip)
    assert_close(got.detach(), loss, **close)
    if got.requires_grad:
        got.backward()
    for layer, y, grad in zip(model.layers, ys, grads, strict=True):
        x = layer._weight_unconstrained
        assert (x.grad is None) == (grad is None)
        if grad is not None:
            assert_close(x.grad, grad, **close)
        assert_close(layer.weight.detach().clone(), y.detach(), **close)


def counts(model, what="evaluations"):
    return [getattr(row, what) for row in cp.statistics(model).values()]


def change(model, which=None):
    with torch.no_grad():
        for i, x in enumerate(xs_of(model)):
            if which is None or i in which:
                x.add_(0.1 * torch.randn_like(x))


@dataclass(frozen=True, repr=False)
class Counted(cp.NonNegative):
    """Says on how many elements f ran, and how often its derivative."""

    def _forward(self, x):
        CALLS.append(tuple(x.shape))
        y = super()._forward(x)
        if y.requires_grad:
            y.register_hook(lambda _: DERIVATIVES.append(tuple(x.shape)))
        return y


CALLS, DERIVATIVES = [], []


@pytest.fixture
def counted():
    model = net(Counted())
    change(model)
    CALLS.clear()
    DERIVATIVES.clear()
    return model


# What is evaluated ---------------------------------------------------------------------------
def test_one_f_and_one_derivative_for_all(counted):
    before = counts(counted)
    for _ in range(3):
        counted().backward()
    assert CALLS == [(COUNT, 3, 3)] and DERIVATIVES == [(COUNT, 3, 3)] * 3
    assert counts(counted) == [n + 1 for n in before]
    assert counts(counted, "pullbacks") == [3] * COUNT
    check(counted)


def test_one_that_changed_alone_is_evaluated_alone(counted):
    kept = [layer.weight for layer in counted.layers]
    CALLS.clear()
    change(counted, {2})
    again = [layer.weight for layer in counted.layers]
    assert CALLS == [(3, 3)]
    assert [a is b for a, b in zip(kept, again, strict=True)] == [True, True, False, True]
    check(counted)


def test_those_that_changed_are_evaluated_together(counted):
    _ = counted()
    CALLS.clear()
    change(counted, {0, 1, 3})
    assert counted.layers[3].weight is not None
    assert CALLS == [(3, 3, 3)]
    check(counted)
    assert CALLS[1:] == [(3, 3)] * COUNT  # of the oracle


def test_no_graph_without_grad_and_one_when_it_is_needed(counted):
    counted.eval()
    with torch.no_grad():
        assert not any(layer.weight.requires_grad for layer in counted.layers)
    counted.train()
    counted().backward()
    assert CALLS == [(COUNT, 3, 3)] * 2


FUNCTIONS = {
    "base": (lambda: cp.Orthogonal("cayley"), (4, 3)),
    "rows and columns": (lambda: cp.PositiveDefinite(), (3, 3)),
    "packed": (lambda: cp.Simplex(), (2, 4)),
    "linear": (lambda: cp.Symmetric(), (3, 3)),
    "numbers": (lambda: cp.Interval(-1.0, torch.tensor([1.0, 2.0, 3.0])), (2, 3)),
    "a view": (lambda: cp.Orthogonal(view="o i h w -> o (i h w)"), (2, 3, 2, 2)),
    "a view named layers": (lambda: cp.Orthogonal(view="layers i h -> layers (i h)"), (2, 3, 2)),
    "sizes": (
        lambda: cp.Orthogonal(view="(heads d) e -> heads d e", sizes={"heads": 2}),
        (4, 3),
    ),
    "batch": (lambda: cp.Orthogonal(view="batch"), (2, 3, 3)),
    "dim": (lambda: cp.Sphere(dim=0), (3, 4)),
    "dims": (lambda: cp.Sphere(dim=(0, 2)), (3, 2, 2)),
    "all dims": (lambda: cp.Sphere(dim=None), (3, 4)),
    "last dim": (lambda: cp.Sphere(dim=-2), (3, 4)),
    "x longer than y": (lambda: cp.MagnitudeDirection(dim=0), (3, 4)),
    "x longer, all dims": (lambda: cp.Ball(2.0, 1, closed=True, dim=None), (3, 4)),
    "dims one by one": (lambda: cp.SumToZero(dim=(0, 1)), (3, 4)),
    "dims together": (lambda: cp.SumToZero(dim=None, joint=True), (3, 4)),
    "a mask": (lambda: cp.FixedEntries([True, False, False, True], 2.0), (3, 4)),
    "blocks": (lambda: cp.BlockDiagonal(2, cp.Orthogonal()), (4, 4)),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_every_layout(kind):
    make, shape = FUNCTIONS[kind]
    model = net(make(), shape)
    assert cp.summary(model)["layers.0.weight"].batch == COUNT
    check(model)
    check(model, skip={1})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex128])
def test_dtypes(dtype):
    torch.manual_seed(0)
    model = Net(dtype=dtype)
    for layer in model.layers:
        cp.register_constrained_parameter(layer, "weight", cp.Orthogonal())
    cp.batch(model)
    change(model)
    weights = [layer.weight for layer in model.layers]
    for layer, w in zip(model.layers, weights, strict=True):
        want = cp.Orthogonal()(layer._weight_unconstrained.detach(), base=layer._weight_base)
        assert_close(w.detach().clone(), want)
    sum((w.abs() ** 2).sum() * i for i, w in enumerate(weights)).backward()
    assert all(x.grad.dtype == dtype for x in xs_of(model))


# Gradients -----------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["auto", "verified", "manual"])
def test_accumulation_and_several_losses(mode):
    model = net(update=mode)
    cp.updated(model)
    parts = [{0}, {1, 2}, set()]
    want = [naive(model, skip)[2] for skip in parts]
    for skip in parts:
        model(skip).backward()
    for i, x in enumerate(xs_of(model)):
        assert_close(x.grad, sum(grads[i] for grads in want if grads[i] is not None), **CLOSE)
    assert counts(model, "pullbacks") == [2, 2, 2, 3]


def test_what_nobody_used_has_no_gradient_and_is_not_stepped():
    model = net(cp.PositiveDefinite())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    before = [x.detach().clone() for x in xs_of(model)]
    for _ in range(2):
        optimizer.zero_grad()
        model(skip={1, 2}).backward()
        optimizer.step()
    moved = [not torch.equal(x, old) for x, old in zip(xs_of(model), before, strict=True)]
    assert moved == [True, False, False, True]
    check(model)


def test_create_graph_to_third_order_of_some():
    """What nobody used has no gradient at any order."""
    results = []
    for inline in (True, False):
        model = net(cp.PositiveDefinite())
        xs = xs_of(model)
        f = cp.PositiveDefinite()
        a, b, c, d = [f(x) for x in xs] if inline else [layer.weight for layer in model.layers]
        (first,) = torch.autograd.grad((a * b * c).sin().sum(), xs[0], create_graph=True)
        (second,) = torch.autograd.grad((first * b).cos().sum(), xs[1], create_graph=True)
        third = torch.autograd.grad(second.sin().sum(), xs, allow_unused=True)
        (alone,) = torch.autograd.grad(d.sin().sum(), xs[3], create_graph=True)
        fourth = torch.autograd.grad(alone.square().sum(), xs, allow_unused=True)
        results.append([first, second, *third, *fourth])
    for got, want in zip(*results, strict=True):
        assert (got is None) == (want is None)
        if want is not None:
            assert_close(got.detach(), want.detach(), **CLOSE)
    assert [got is None for got in results[1]] == [False] * 5 + [True] * 4 + [False]


def test_hooks_on_x_fire_once_with_the_total():
    model, seen = net(), []
    for i, x in enumerate(xs_of(model)):
        x.register_hook(lambda g, i=i: seen.append((i, g.clone())))
        x.register_post_accumulate_grad_hook(lambda x, i=i: seen.append((i, x.grad.clone())))
    grads = naive(model, {3})[2]
    model(skip={3}).backward()
    assert sorted(i for i, _ in seen) == [0, 0, 1, 1, 2, 2]
    for i, g in seen:
        assert_close(g, grads[i], **CLOSE)


def test_hooks_on_y_are_called_for_its_own_gradient():
    model, seen = net(), []
    ys = [layer.weight for layer in model.layers]
    ys[0].register_hook(lambda g: 2 * g)
    handle = ys[1].register_hook(seen.append)
    ys[2].retain_grad()
    model(skip={1}).backward()
    assert seen == [] and ys[2].grad.norm() > 0
    want = naive(model, {1})[2]
    assert_close(xs_of(model)[0].grad, 2 * want[0], **CLOSE)
    ys[1].sum().backward()
    handle.remove()
    ys[1].sum().backward()
    assert len(seen) == 1


@pytest.mark.parametrize("mode", ["all", "any"])
def test_hooks_on_several_x(mode):
    model, seen = net(), []
    torch.autograd.graph.register_multi_grad_hook(xs_of(model), seen.append, mode=mode)
    model(skip={0, 2}).backward()
    model(skip={1}).backward()
    if mode == "all":
        came = [[g is not None for g in grads] for grads in seen]
        assert came == [[False, True, False, True], [True, False, True, True]]
    else:
        assert len(seen) == 2 and None not in seen


def test_steps_inside_of_the_backward():
    """Optimisers that step in a hook as the gradient of each x arrives."""

    def step_of(optimizer):
        def step(_):
            optimizer.step()
            optimizer.zero_grad()

        return step

    models = net(), net(batched=False)
    for model in models:
        for x in xs_of(model):
            optimizer = torch.optim.SGD([x], lr=0.1)
            x.register_post_accumulate_grad_hook(step_of(optimizer))
        for _ in range(3):
            model().backward()
    for one, other in zip(*map(xs_of, models), strict=True):
        assert_close(one, other, **CLOSE)


def test_a_backward_after_x_changed_in_place_raises():
    model = net()
    loss = model()
    change(model, {1})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    ys = [layer.weight for layer in model.layers]
    change(model, {1})
    ys[0].sum().backward()  # its own x is as it was
    assert xs_of(model)[0].grad.norm() > 0


def test_a_manual_value_outlives_a_change():
    model = net(update="manual")
    cp.updated(model)
    want = naive(model)[2]
    loss = model()
    change(model)
    loss.backward()
    for x, grad in zip(xs_of(model), want, strict=True):
        assert_close(x.grad, grad, **CLOSE)


def test_activation_checkpointing():
    from torch.utils.checkpoint import checkpoint

    for reentrant in (True, False):
        model = net()
        want = naive(model)[2]
        x = torch.zeros((), dtype=torch.float64, requires_grad=True)
        checkpoint(lambda x, model=model: model() + x, x, use_reentrant=reentrant).backward()
        for got, grad in zip(xs_of(model), want, strict=True):
            assert_close(got.grad, grad, **CLOSE)


# Deferral ------------------------------------------------------------------------------------
def test_deferred_pullback(counted):
    skips = [{0}, {1}, set()]
    want = [naive(counted, skip)[2] for skip in skips]
    CALLS.clear()
    DERIVATIVES.clear()
    with cp.deferred_pullback(counted):
        for skip in skips[:-1]:
            counted(skip).backward()
    assert DERIVATIVES == [] and all(x.grad is None for x in xs_of(counted))
    counted(skips[-1]).backward()
    assert CALLS == DERIVATIVES == [(COUNT, 3, 3)]
    for i, x in enumerate(xs_of(counted)):
        assert_close(x.grad, sum(g[i] for g in want if g[i] is not None), **CLOSE)


def test_deferral_of_some_and_sums_that_are_missing():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    want = naive(model)[2]
    accumulate = cp.deferred_pullback(model.layers[0])
    with accumulate:
        model().backward()
    assert xs_of(model)[0].grad is None
    assert_close(xs_of(model)[1].grad, want[1], **CLOSE)
    with pytest.raises(cp.PendingGradients):
        optimizer.step()
    with pytest.raises(cp.PendingGradients), cp.deferred_pullback(model):
        pass
    model(skip={0}).backward()  # the sum of a layer waits for a backward of its own
    with pytest.raises(cp.PendingGradients):
        optimizer.step()
    accumulate.discard()
    optimizer.step()
    check(model)


@pytest.mark.parametrize("how", ["grad", "inputs"])
def test_sums_that_a_partial_backward_would_lose(how):
    model = net()
    want = naive(model)[2]
    x = xs_of(model)[0]
    with cp.deferred_pullback(model):
        model().backward()
    with pytest.raises(cp.PendingGradients, match="would be lost"):
        _ = torch.autograd.grad(model(), x) if how == "grad" else model().backward(inputs=[x])
    model().backward()
    for x, grad in zip(xs_of(model), want, strict=True):
        assert_close(x.grad, 2 * grad, **CLOSE)
    check(model)


# Events --------------------------------------------------------------------------------------
def train(model, optimizer=None, steps=2):
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        model().backward()
        optimizer.step()
    return model


def of_some(model):
    optimizer = torch.optim.AdamW([p for m in model.layers[:2] for p in m.parameters()], lr=0.1)
    return train(model, optimizer)


def lbfgs(model):
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = model()
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def frozen(model):
    model.layers[1].weight.requires_grad_(False)
    return train(model)


def thawed(model):
    frozen(model).layers[1].weight.requires_grad_(True)
    return model


def assigned(model):
    with torch.no_grad():
        model.layers[2].weight = cp.Orthogonal().sample((3, 3), dtype=torch.float64)
    return model


def written(model):
    nn.init.orthogonal_(model.layers[2].weight)
    return model


def refused(model):
    with torch.no_grad():
        model.layers[2].weight.mul_(2)
    for layer in (model.layers[0], model.layers[1]):
        _ = layer.weight  # the trouble of one layer is none of another
    with pytest.raises(cp.ConstraintViolation):
        _ = model.layers[2].weight
    return model


def stale_and_written(model):
    with torch.no_grad():
        model.layers[2].weight.mul_(2)
        change(model, {0, 1})
        for i in (0, 1):
            _ = model.layers[i].weight
    with pytest.raises(cp.ConstraintViolation):
        _ = model.layers[2].weight
    return model


def stale_and_written_itself(model):
    with torch.no_grad():
        model.layers[2].weight.mul_(2)
        change(model)
        for i in (0, 1, 3):
            _ = model.layers[i].weight
    with pytest.raises(cp.ConstraintViolation, match="both"):
        _ = model.layers[2].weight
    return model


def former_y_kept(model):
    held = [layer.weight for layer in model.layers]
    change(model)
    check(model)
    assert held
    change(model)
    return model


def through_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def replaced(model):
    x = model.layers[1]._weight_unconstrained
    model.layers[1]._weight_unconstrained = nn.Parameter(x.detach() + 0.1)
    return model


def removed(model):
    model.layers[3] = nn.Module()
    model.layers = model.layers[:3]
    return train(model)


def half_of_it_elsewhere(model):
    model.layers[0].float()
    model.layers[0].double()
    return model


def temporary(model):
    with cp.temporarily(model.layers[1], "weight", torch.ones(3, 3, dtype=torch.float64)):
        change(model)
        _ = model()
    return model


def evaluated(model):
    change(model)
    model.eval()
    with torch.inference_mode():
        _ = model()
    with torch.no_grad():
        _ = model()
    return model.train()


def read_first_without_grad(model):
    for mode in (torch.no_grad, torch.inference_mode):
        change(model)
        with mode():
            _ = model()
    return model


def trained_twin(model):
    twin = train(copy.deepcopy(model))
    check(twin)
    return model


def tied(model):
    model.more = nn.Linear(3, 3).double()
    cp.share_constrained_parameter(model.layers[0], "weight", model.more)
    cp.batch(model)
    train(model)
    assert model.more.weight is model.layers[0].weight
    return model


def tied_and_removed(model):
    tied(model)
    cp.remove_constrained_parameter(model.layers[0], "weight")
    model.layers[0] = model.more
    return model


EVENTS = {
    "training": train,
    "foreach": lambda m: train(m, torch.optim.Adam(m.parameters(), lr=0.1, foreach=True)),
    "fused": lambda m: train(m, torch.optim.AdamW(m.parameters(), lr=0.1, fused=True)),
    "an optimiser of some": of_some,
    "L-BFGS": lbfgs,
    "a frozen layer": frozen,
    "a layer frozen for a while": thawed,
    "all frozen": lambda m: m.requires_grad_(False),
    ".data of one": lambda m: (m.layers[1]._weight_unconstrained.data.add_(0.1), m)[1],
    "in place": lambda m: (change(m), m)[1],
    "assignment": assigned,
    "a write to y": written,
    "a refused write to y": refused,
    "a write to a y and others stale": stale_and_written,
    "a write to a y and all stale": stale_and_written_itself,
    "a former y held": former_y_kept,
    "another x": replaced,
    "the base of one": lambda m: (m.layers[1]._weight_base.copy_(torch.eye(3)), m)[1],
    "the base of one off the set": lambda m: (m.layers[1]._weight_base.mul_(1.1), m)[1],
    "load": lambda m: (m.load_state_dict(train(copy.deepcopy(m)).state_dict()), m)[1],
    "load, assigned": lambda m: (
        m.load_state_dict(train(copy.deepcopy(m)).state_dict(), assign=True),
        m,
    )[1],
    "plain load": lambda m: (m.load_state_dict(cp.plain_state_dict(train(copy.deepcopy(m)))), m)[1],
    "deepcopy": copy.deepcopy,
    "a trained deepcopy": trained_twin,
    "copy": copy.copy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "torch.save": through_torch,
    "float and back": lambda m: m.float().double(),
    "one cast": half_of_it_elsewhere,
    "removal": removed,
    "eval": evaluated,
    "no_grad first": read_first_without_grad,
    "a temporary value": temporary,
    "updated": lambda m: (cp.updated(m), m)[1],
    "one updated": lambda m: (cp.updated(m.layers[2], "weight"), m)[1],
    "retract": lambda m: (cp.retract(m), m)[1],
    "a tied weight": tied,
    "a tied weight removed in one place": tied_and_removed,
    "undone": lambda m: cp.batch(m, on=False),
    "again": cp.batch,
}


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("event", EVENTS)
def test_right_after(event, warm):
    model = net()
    if warm:
        check(model)
    model = EVENTS[event](model)
    check(model)
    check(model, skip={0})
    if event != "all frozen":
        train(model)
        check(model)


@pytest.mark.parametrize("event", ["deepcopy", "pickle", "torch.save", "float and back", "load"])
def test_batched_after(event):
    model = EVENTS[event](net(Counted()))
    assert cp.summary(model)["layers.0.weight"].batch == COUNT
    change(model)
    CALLS.clear()
    _ = model()
    assert CALLS == [(COUNT, 3, 3)]


def test_a_member_in_another_dtype_is_evaluated_apart(counted):
    counted.layers[0].float()
    CALLS.clear()
    for layer in counted.layers:
        want = layer._weight_unconstrained.detach().square()
        assert_close(layer.weight.detach().clone(), want)
    assert sorted(CALLS) == [(3, 3), (3, 3, 3)]


def test_removal_and_registration_of_members(counted):
    layers = counted.layers
    cp.remove_constrained_parameter(layers[0], "weight")
    change_rest = [layer._weight_unconstrained for layer in layers[1:]]
    with torch.no_grad():
        for x in change_rest:
            x.add_(0.1)
    CALLS.clear()
    _ = layers[1].weight
    assert CALLS == [(3, 3, 3)]
    cp.register_constrained_parameter(layers[0], "weight", Counted())
    assert cp.summary(counted)["layers.0.weight"].batch is None
    cp.batch(counted)
    assert [row.batch for row in cp.summary(counted).values()] == [COUNT] * COUNT
    change(counted)
    CALLS.clear()
    _ = counted()
    assert CALLS == [(COUNT, 3, 3)]


def test_a_part_of_the_model_stays_in_the_batch_of_the_whole(counted):
    cp.batch(counted.layers[0])
    cp.batch(counted.layers[:2])
    _ = counted()
    assert CALLS[-1] == (COUNT, 3, 3)


def test_undone(counted):
    assert cp.batch(counted, on=False) is counted
    _ = counted()
    assert CALLS == [(3, 3)] * COUNT
    assert [row.batch for row in cp.summary(counted).values()] == [None] * COUNT


# What is left out ----------------------------------------------------------------------------
class Shift(nn.Module):
    def forward(self, x):
        return x + 1


@dataclass(frozen=True, repr=False)
class WholeBatch(cp.NonNegative):
    """Breaks the promise of a set: of a batch it is not that of its elements."""

    def _forward(self, x):
        return super()._forward(x) / (1 + x.square().sum())


LEFT_OUT = {
    "a callable": (lambda: torch.tanh, "is no set"),
    "a module": (Shift, "is no set"),
    "a set that mixes its elements": (WholeBatch, "of a batch is not that of its elements"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_left_out_and_told(kind, caplog):
    make, told = LEFT_OUT[kind]
    with caplog.at_level(logging.INFO, logger="constrainedparams"):
        model = net(make())
    assert sum(told in record.message for record in caplog.records) == COUNT
    assert cp.summary(model)["layers.1.weight"].batch is None
    for layer in model.layers:
        want = cp.constraint_of(layer, "weight")(layer._weight_unconstrained.detach())
        assert_close(layer.weight.detach().clone(), want)


def test_what_has_no_partner_is_left_out(caplog):
    model = Net()
    cp.register_constrained_parameter(model.layers[0], "weight", cp.Orthogonal())
    with caplog.at_level(logging.INFO, logger="constrainedparams"):
        assert cp.batch(model) is model
    assert "`layers.0.weight` is evaluated alone: nothing else" in caplog.text


def test_the_log_says_what_is_together(caplog):
    with caplog.at_level(logging.INFO, logger="constrainedparams"):
        net()
    assert "4 parameters of Orthogonal(), (3, 3), are one batch" in caplog.text


def test_no_module():
    with pytest.raises(cp.RegistrationError, match=r"expected an nn\.Module"):
        cp.batch([nn.Linear(2, 2)])


@dataclass(frozen=True, repr=False)
class Picky(cp.NonNegative):
    def _forward(self, x):
        if bool((x > 100).any()):
            raise ArithmeticError("too large")
        return super()._forward(x)


def test_what_f_refuses_spoils_only_its_own_read():
    model = net(Picky())
    with torch.no_grad():
        change(model)
        xs_of(model)[1].fill_(1000)
    for i in (0, 2, 3):
        x = xs_of(model)[i].detach()
        assert_close(model.layers[i].weight.detach().clone(), cp.NonNegative()(x))
    with pytest.raises(ArithmeticError, match="too large"):
        _ = model.layers[1].weight
    with torch.no_grad():
        xs_of(model)[1].fill_(1.0)
    check(model)


# Elsewhere -----------------------------------------------------------------------------------
def test_between_steps_only_parameters_live():
    def alive():
        gc.collect()
        return [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]

    found = []
    for batched in (False, True):
        before = alive()  # held, so that what other tests left behind does not go meanwhile
        known = {id(t) for t in before}
        model = net(batched=batched)
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=3)
        model.zero_grad()
        found.append(sum(t.numel() for t in alive() if id(t) not in known))
        del model
    assert found[0] == found[1] > 0


def test_a_value_is_saved_without_its_neighbours():
    model = net()
    file = io.BytesIO()
    torch.save({"w": model.layers[1].weight}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)["w"]
    assert saved.untyped_storage().nbytes() == saved.numel() * saved.element_size()
    assert_close(saved, naive(model)[1][1].detach(), **CLOSE)


def test_a_batch_keeps_no_layer_alive():
    import weakref

    model = net()
    _ = model()
    gone = weakref.ref(model.layers[0])
    model.layers = model.layers[1:]
    gc.collect()
    change(model)
    check(model)
    assert gone() is None


def test_transforms_and_compilers_go_around_it():
    model = net()
    want, _, grads = naive(model)
    params = {k: v.detach() for k, v in model.named_parameters()}
    got = torch.func.grad(lambda p: torch.func.functional_call(model, p, ((),)))(params)
    for i, grad in enumerate(grads):
        assert_close(got[f"layers.{i}._weight_unconstrained"], grad, **CLOSE)
    compiled = torch.compile(model, backend="aot_eager")
    loss = compiled()
    loss.backward()
    assert_close(loss.detach(), want, **CLOSE)
    for x, grad in zip(xs_of(model), grads, strict=True):
        assert_close(x.grad, grad, **CLOSE)


def test_compile_hoists_one_batch(counted):
    fast = cp.compile(counted, backend="aot_eager")
    for _ in range(2):
        fast().backward()
    assert CALLS == [(COUNT, 3, 3)]


def test_autocast_and_linear_layers():
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)])
    cp.register_constrained_parameters(model, {"*.weight": cp.Orthogonal()})
    cp.batch(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(torch.randn(4, 8)).float().square().mean()
    loss.backward()
    for layer in model:
        w = layer.weight.detach().double()
        assert (w @ w.mT - torch.eye(8)).norm() < 1e-5
        assert F.linear(torch.ones(1, 8), layer.weight).shape == (1, 8)
        assert layer._weight_unconstrained.grad is not None
