"""A copy is a model of its own: it goes on as the original would, and neither touches the other."""

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import constrainedparams as cp

from .naive import (
    OPTIMIZERS,
    ROWS,
    Scaled,
    Shifted,
    bounded,
    constrain,
    equal,
    loss_of,
    orthogonal,
    owner,
    train,
    value,
    x_of,
    y_of,
)


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle2": lambda m: pickle.loads(pickle.dumps(m, protocol=2)),
    "pickle5": lambda m: pickle.loads(pickle.dumps(m, protocol=5)),
    "torch_save": saved,
    "cloudpickle": lambda m: cloudpickle.loads(cloudpickle.dumps(m)),
}
each_copy = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


def picture(model):
    """All tensors of a model, its gradients and its counts."""
    tensors = {n: value(t) for n, t in model.state_dict().items()}
    tensors |= {
        f"{n}.grad": value(p.grad) for n, p in model.named_parameters() if p.grad is not None
    }
    return tensors, cp.statistics(model)


def assert_unchanged(model, before):
    tensors, counts = picture(model)
    assert counts == before[1]
    assert tensors.keys() == before[0].keys()
    for n, t in tensors.items():
        assert torch.equal(t, before[0][n]), n


def storages(model):
    return {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}


# Any module -------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["deepcopy", "pickle5"])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_copy_goes_on_as_the_original(row, how):
    """Copied in mid-training with its optimiser: the same losses from there on."""
    model, _ = row.pair()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    train(model, row.call, optimizer)
    twin = COPIES[how](model)
    other = OPTIMIZERS["adam"](twin.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
    assert not storages(model) & storages(twin)
    later = range(3, 5)
    equal(train(twin, row.call, other, later), train(model, row.call, optimizer, later))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_training_one_leaves_the_other(row):
    """In both directions: values, gradients and counts."""
    model, _ = row.pair()
    train(model, row.call, OPTIMIZERS["sgd"](model.parameters()))
    twin = copy.deepcopy(model)
    for one, other in ((model, twin), (twin, model)):
        for n in row.functions:
            y_of(other, n)  # warm
        before = picture(other)
        train(one, row.call, OPTIMIZERS["sgd"](one.parameters()))
        assert_unchanged(other, before)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_copy_between_backward_and_step(row):
    model, naive = row.pair()
    optimizers = [OPTIMIZERS["sgd"](m.parameters()) for m in (model, naive)]
    for m in (model, naive):
        torch.manual_seed(0)
        loss_of(row.call(m)).backward()
    twin = copy.deepcopy(model)
    start = {n: value(y_of(twin, n)) for n in row.functions}
    for optimizer in optimizers:
        optimizer.step()
    naive.assert_same(model)
    for n, f in row.functions.items():
        equal(y_of(model, n), f(x_of(model, n)))
        equal(y_of(twin, n), start[n])


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_removing_from_one_leaves_the_other(row):
    model, _ = row.pair()
    twin = copy.deepcopy(model)
    want = {n: value(y_of(model, n)) for n in row.functions}
    for n in row.functions:
        cp.remove_constrained_parameter(*owner(model, n))
    assert not cp.is_constrained(model)
    train(twin, row.call, OPTIMIZERS["sgd"](twin.parameters()))
    for n, f in row.functions.items():
        assert cp.is_constrained(*owner(twin, n))
        equal(y_of(twin, n), f(x_of(twin, n)))
        equal(y_of(model, n), want[n])
        cp.remove_constrained_parameter(*owner(twin, n))
    assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]


# Every way to copy ------------------------------------------------------------------------------
FUNCTIONS = {
    "callable": (bounded, {}),
    "manual": (bounded, {"update": "manual"}),
    "verified": (bounded, {"update": "verified"}),
    "inverse": (Shifted(), {}),
    "set": (cp.Orthogonal(), {}),
    "set_with_options": (cp.Orthogonal(map="cayley"), {"update": "verified"}),
    "interval": (cp.Interval(torch.zeros(4), torch.ones(4)), {"update": "manual"}),
}


@each_copy
@pytest.mark.parametrize(("f", "options"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_function_and_mode_travel(copied, f, options):
    model = constrain(nn.Sequential(nn.Linear(4, 4)), {"0.weight": f}, **options)
    twin = copied(model)
    equal(twin[0].weight, model[0].weight)
    assert type(cp.constraint_of(twin[0], "weight")) is type(cp.constraint_of(model[0], "weight"))
    if isinstance(f, cp.Constraint):
        assert cp.constraint_of(twin[0], "weight") == f
    before = picture(model)

    def call(m):
        return m(torch.randn(3, 4))

    # twice: manual mode evaluates again only when it is told
    for _ in range(2):
        train(twin, call, OPTIMIZERS["sgd"](twin.parameters()), micro=1)
        stale = value(twin[0].weight)
        twin[0].weight.updated()
        assert torch.equal(stale, twin[0].weight) is (options.get("update") != "manual")
    assert_unchanged(model, before)


@each_copy
def test_verified_stays_verified(copied):
    """The copy notices what only a comparison of values can."""
    layer = constrain(nn.Linear(4, 4), {"weight": bounded}, update="verified")
    twin = copied(layer)
    for m in (twin, layer):
        _ = m.weight
        m._weight_unconstrained.detach().numpy()[:] = 0.25
        equal(m.weight, bounded(torch.full((4, 4), 0.25)))


@each_copy
def test_a_copy_is_watched(copied):
    """What the original notices its copy notices too: ``.data``, and steps that move no version."""
    layer = constrain(nn.Linear(4, 4), {"weight": orthogonal})
    _ = layer.weight
    twin = copied(layer)
    _ = twin.weight
    twin._weight_unconstrained.data.mul_(0.5)
    equal(twin.weight, orthogonal(twin._weight_unconstrained))
    loss_of(twin(torch.randn(3, 4))).backward()
    torch.optim.SGD(twin.parameters(), lr=0.1, fused=True).step()
    equal(twin.weight, orthogonal(twin._weight_unconstrained))
    equal(layer.weight, orthogonal(layer._weight_unconstrained))
    assert not torch.equal(twin.weight, layer.weight)


@each_copy
def test_map_state_is_copied_too(copied):
    layer = constrain(nn.Linear(4, 4), {"weight": cp.Orthogonal()})
    twin = copied(layer)
    assert twin._weight_base is not layer._weight_base
    other = constrain(nn.Linear(4, 4), {"weight": cp.Orthogonal()})
    other.load_state_dict(twin.state_dict())
    equal(other.weight, layer.weight)
    twin.weight = torch.eye(4)
    equal(other.weight, layer.weight)


@each_copy
def test_a_function_with_parameters_is_copied_too(copied):
    layer = constrain(nn.Linear(4, 4), {"weight": Scaled()})
    twin = copied(layer)
    f, g = (cp.constraint_of(m, "weight") for m in (layer, twin))
    assert f is not g and f.scale is not g.scale
    assert [n for n, _ in twin.named_parameters()] == [n for n, _ in layer.named_parameters()]
    before = picture(layer)
    train(twin, lambda m: m(torch.randn(3, 4)), OPTIMIZERS["sgd"](twin.parameters()))
    assert g.scale.item() != 1.5 and f.scale.item() == 1.5
    equal(twin.weight, torch.tanh(g.scale * twin._weight_unconstrained))
    assert_unchanged(layer, before)


@each_copy
def test_two_constraints(copied):
    functions = {"weight": cp.Orthogonal(), "bias": cp.Interval(-1.0, 1.0)}
    layer = constrain(nn.Linear(4, 4), functions)
    twin = copied(layer)
    assert type(twin) is type(layer)
    cp.remove_constrained_parameter(twin, "weight")
    assert cp.is_constrained(layer, "weight") and cp.is_constrained(twin, "bias")
    train(layer, lambda m: m(torch.randn(3, 4)), OPTIMIZERS["sgd"](layer.parameters()))
    assert cp.Orthogonal().contains(layer.weight)
    cp.remove_constrained_parameter(twin, "bias")
    assert type(twin) is nn.Linear and type(layer) is not nn.Linear


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["lstm_deep", "encoder", "bag"])
def test_every_protocol_between_backward_and_step(name, protocol):
    model, _ = ROWS[name].pair()
    loss_of(ROWS[name].call(model)).backward()
    twin = pickle.loads(pickle.dumps(model, protocol=protocol))
    for n, f in ROWS[name].functions.items():
        assert torch.equal(y_of(twin, n), y_of(model, n))
        x_of(twin, n).data.mul_(0.5)
        equal(y_of(twin, n), f(x_of(model, n) / 2))


@each_copy
def test_parametrized(copied):
    w = cp.Parametrized(torch.rand(3), bounded)
    twin = copied(w)
    equal(twin.y, w.y)
    assert type(twin) is type(w) and isinstance(twin, cp.Parametrized)
    with torch.no_grad():
        twin.x.fill_(0.5)
    equal(twin.y, bounded(torch.full((3,), 0.5)))
    equal(w.y, bounded(w.x))
    assert not torch.equal(w.y, twin.y)


@each_copy
def test_sharing_inside_a_model_is_kept(copied):
    layer = constrain(nn.Linear(4, 4), {"weight": orthogonal})
    twin = copied(nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)}))
    assert twin["a"] is twin["b"][0] and twin["a"] is not layer
    assert twin["a"].weight is twin["b"][0].weight


@each_copy
def test_a_write_into_y_travels(copied):
    """Written and not yet noticed: the copy has it, and so has the original."""
    layer = constrain(nn.Linear(4, 4), {"weight": cp.Orthogonal()})
    with torch.no_grad():
        nn.init.eye_(layer.weight)
    equal(copied(layer).weight, torch.eye(4))
    equal(layer.weight, torch.eye(4))


def test_cloudpickle_takes_what_pickle_refuses():
    """A closure, and a class of the notebook."""
    factor = 2.0

    class Mine(nn.Linear):
        pass

    layer = constrain(Mine(4, 4), {"weight": lambda x: torch.tanh(factor * x)})
    with pytest.raises((AttributeError, pickle.PicklingError), match="local"):
        pickle.dumps(layer)
    twin = cloudpickle.loads(cloudpickle.dumps(layer))
    equal(twin.weight, torch.tanh(2 * layer._weight_unconstrained))
    assert type(twin) is type(layer)


def test_a_copy_has_no_sums_of_a_deferred_block():
    """They belong to the backward passes of the original."""
    layer = constrain(nn.Linear(4, 4), {"weight": orthogonal})
    x, inputs = layer._weight_unconstrained, torch.randn(3, 4)
    with cp.deferred_pullback(layer):
        loss_of(layer(inputs)).backward()
        twin = copy.deepcopy(layer)
    OPTIMIZERS["sgd"](twin.parameters()).step()
    loss_of(twin(inputs)).backward()
    loss_of(layer(inputs)).backward()
    equal(x.grad, 2 * twin._weight_unconstrained.grad)


# Shallow copies ---------------------------------------------------------------------------------
def test_a_shallow_copy_shares_x_and_the_evaluation():
    layer = constrain(nn.Linear(4, 4), {"weight": orthogonal})
    twin = copy.copy(layer)
    assert type(twin) is type(layer)
    assert twin._weight_unconstrained is layer._weight_unconstrained
    train(twin, lambda m: m(torch.randn(3, 4)), OPTIMIZERS["sgd"](layer.parameters()))
    equal(twin.weight, orthogonal(layer._weight_unconstrained))
    equal(layer.weight, twin.weight)


# Averages ---------------------------------------------------------------------------------------
def model_with_statistics():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    return constrain(model, {"0.weight": orthogonal, "1.weight": torch.exp})


AVERAGES = {
    "swa": {},
    "ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.9)},
    "buffers": {"use_buffers": True},
}


@pytest.mark.parametrize("options", AVERAGES.values(), ids=AVERAGES)
def test_averaged_model(options):
    """x is averaged: y is f of the mean, on the set, at every stage of the training."""
    model = model_with_statistics()
    average = AveragedModel(model, **options)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    mean = None
    for step in range(4):
        train(model, lambda m: m(torch.randn(6, 4)), optimizer, [step])
        average.update_parameters(model)
        x = value(x_of(model, "0.weight"))
        if mean is None:
            mean = x
        else:
            mean = mean + (x - mean) * (0.1 if "multi_avg_fn" in options else 1 / (step + 1))
        equal(x_of(average.module, "0.weight"), mean)
        equal(y_of(average.module, "0.weight"), orthogonal(mean))
        equal(y_of(model, "0.weight"), orthogonal(x))
    with torch.no_grad():
        assert average(torch.randn(6, 4)).shape == (6, 4)


def test_update_bn_of_an_averaged_model():
    model = model_with_statistics()
    average = AveragedModel(model)
    train(model, lambda m: m(torch.randn(6, 4)), OPTIMIZERS["sgd"](model.parameters()))
    average.update_parameters(model)
    batch = torch.randn(50, 4)
    update_bn([batch], average)
    first = average.module[0]
    seen = batch @ orthogonal(first._weight_unconstrained).t() + first.bias
    equal(average.module[1].running_mean, seen.mean(0))
    equal(average.module[1].running_var, seen.var(0))


def test_ema_by_hand():
    """The loop that most training scripts have, with deepcopy, lerp and copied buffers."""
    model = model_with_statistics()
    shadow = copy.deepcopy(model).eval().requires_grad_(False)
    mean = value(x_of(model, "0.weight"))
    optimizer = OPTIMIZERS["adam"](model.parameters())
    for step in range(3):
        train(model, lambda m: m(torch.randn(6, 4)), optimizer, [step])
        with torch.no_grad():
            for s, p in zip(shadow.parameters(), model.parameters(), strict=True):
                s.data.lerp_(p.data, 0.2)
            for s, p in zip(shadow.buffers(), model.buffers(), strict=True):
                s.copy_(p)
        mean = torch.lerp(mean, value(x_of(model, "0.weight")), 0.2)
        equal(y_of(shadow, "0.weight"), orthogonal(mean))
        assert not y_of(shadow, "0.weight").requires_grad


# Classes of a user ------------------------------------------------------------------------------
class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 3)
        self.w = nn.Parameter(torch.rand(4, 4))


class Forwarding(Base):
    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["inner"], name)


class Recording(Base):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name not in ("seen", "__class__") and "seen" in self.__dict__:
            self.seen.append(name)


class CopiedByHand(Base):
    def __deepcopy__(self, memo):
        new = type(self).__new__(type(self))
        new.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items()})
        new.note = "by hand"
        return new


class WithHandle(Base):
    """Holds something that cannot be pickled, and leaves it out."""

    def __init__(self):
        super().__init__()
        self.handle = lambda: "first"

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != "handle"}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.handle = lambda: "again"


class Slotted(Base):
    __slots__ = ("extra",)


class Metaclass(type):
    pass


class WithMetaclass(Base, metaclass=Metaclass):
    pass


CLASSES = (Forwarding, Recording, CopiedByHand, WithHandle, Slotted, WithMetaclass)


@each_copy
@pytest.mark.parametrize("cls", CLASSES)
def test_classes_with_a_will_of_their_own(cls, copied):
    model = constrain(cls(), {"w": Shifted()})
    twin = copied(model)
    assert type(twin) is type(model) and isinstance(twin, cls)
    before = picture(model)
    target = torch.full((4, 4), 0.75)
    twin.w = target
    equal(twin.w, target)
    assert_unchanged(model, before)
    loss_of(twin.w).backward()
    OPTIMIZERS["sgd"]([twin._w_unconstrained]).step()
    equal(twin.w, Shifted()(twin._w_unconstrained))
    cp.remove_constrained_parameter(twin, "w")
    assert type(twin) is cls and type(model) is not cls
    equal(model.w, Shifted()(model._w_unconstrained))


def test_their_own_ways_are_kept():
    assert constrain(Forwarding(), {"w": bounded}).in_features == 2
    assert copy.deepcopy(constrain(CopiedByHand(), {"w": bounded})).note == "by hand"
    handle = constrain(WithHandle(), {"w": bounded})
    assert handle.handle() == "first" and copy.deepcopy(handle).handle() == "again"
    recording = constrain(Recording(), {"w": bounded})
    recording.other = 1
    recording._w_unconstrained = nn.Parameter(torch.zeros(4, 4))
    assert recording.seen[-2:] == ["other", "_w_unconstrained"]
    equal(recording.w, bounded(torch.zeros(4, 4)))
    slotted = Slotted()
    slotted.extra = 5
    assert constrain(slotted, {"w": bounded}).extra == 5
    assert cp.remove_constrained_parameter(slotted, "w").extra == 5


# Another process --------------------------------------------------------------------------------
def test_spawned_processes(tmp_path):
    """A worker trains what it was given; the model of the parent stays as it was."""
    program = Path(__file__).with_name("worker.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "model.pt")], capture_output=True, text=True, timeout=90, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["trained", "unchanged"]
