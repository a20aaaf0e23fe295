"""Checkpoints: of the constrained model, of the unconstrained one, and of the wrong one."""

import copy
import io

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.testing import assert_close

import constrainedparams as cp
from constrainedparams.testing import ROWS

ORTHOGONAL = cp.Orthogonal()
SWAP = "swap_module_params_on_conversion"


class Scaled(nn.Module):
    """y = s x with a learnt s, and a right inverse."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.scale * x

    def right_inverse(self, y):
        return y / self.scale


def plain_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.RNNCell(4, 4), nn.Linear(4, 2, bias=False))


def constrained_model(seed=1):
    model = plain_model(seed)
    cp.register_constrained_parameter(model[0], "weight", ORTHOGONAL)
    cp.register_constrained_parameter(model[0], "bias", cp.Interval(-1.0, 1.0))
    cp.register_constrained_parameter(model[2], "weight_hh", ORTHOGONAL)
    cp.register_constrained_parameter(model[3], "weight", Scaled())
    return model


def forward(model, x):
    return model[3](model[2](model[1](model[0](x))))


def on_the_sets(seed=2):
    """A plain model whose values are on the sets of the constrained one."""
    model = plain_model(seed)
    with torch.no_grad():
        model[0].weight.copy_(ORTHOGONAL.project(model[0].weight))
        model[2].weight_hh.copy_(ORTHOGONAL.project(model[2].weight_hh))
    return model


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def through_safetensors(state):
    return safetensors.torch.load(safetensors.torch.save(dict(state)))


def same(one, other):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(9))
    assert_close(forward(one, x).detach(), forward(other, x).detach(), rtol=1e-5, atol=1e-5)


@pytest.fixture(params=["copied", "assigned", "swapped"])
def load(request):
    """The three ways in which torch puts loaded values into a model."""
    if request.param == "swapped":
        getattr(torch.__future__, f"set_{SWAP}")(True)
    options = {"assign": True} if request.param == "assigned" else {}
    yield lambda model, state: model.load_state_dict(state, strict=True, **options)
    getattr(torch.__future__, f"set_{SWAP}")(False)


# what loads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("way", [through_a_file, through_safetensors, lambda s: s])
def test_own_round_trip(load, way, warm):
    source, target = constrained_model(1), constrained_model(2)
    if warm:
        forward(target, torch.randn(5, 4))
    load(target, way(copy.deepcopy(source.state_dict())))
    same(source, target)
    for name in ("weight", "bias"):
        assert bool(cp.constraint_of(target[0], name).contains(getattr(target[0], name)).all())


@pytest.mark.parametrize("way", [through_a_file, through_safetensors, lambda s: s])
def test_from_the_unconstrained_model(load, way):
    source, target = on_the_sets(), constrained_model()
    forward(target, torch.randn(5, 4))
    load(target, way(copy.deepcopy(source.state_dict())))
    same(source, target)
    assert cp.is_constrained(target[0], "weight")
    assert isinstance(target[0]._weight_unconstrained, nn.Parameter)


@pytest.mark.parametrize("way", [through_a_file, through_safetensors, lambda s: s])
def test_into_the_unconstrained_model(load, way):
    source, target = constrained_model(), plain_model(7)
    state = cp.plain_state_dict(source)
    assert list(state) == list(target.state_dict())
    assert all(type(t) is torch.Tensor and not t.requires_grad for t in state.values())
    load(target, way(state))
    same(source, target)


@pytest.mark.parametrize("options", [{}, {"assign": True}])
def test_a_layer_that_keeps_a_list_of_its_weights(options):
    """(torch cannot swap the weights of its own LSTM: it holds weak references to them.)"""
    x = torch.randn(5, 3, 4)
    source, target = nn.LSTM(4, 4), nn.LSTM(4, 4)
    with torch.no_grad():
        source.weight_hh_l0.copy_(ORTHOGONAL.project(source.weight_hh_l0))
    cp.register_constrained_parameter(target, "weight_hh_l0", ORTHOGONAL)
    target(x)
    target.load_state_dict(source.state_dict(), **options)
    assert_close(target(x)[0], source(x)[0], rtol=1e-5, atol=1e-6)
    source.load_state_dict(cp.plain_state_dict(target), **options)
    assert_close(target(x)[0], source(x)[0], rtol=1e-5, atol=1e-6)


def test_the_plain_state_dict_shares_no_memory_with_y():
    model = constrained_model()
    target = plain_model(7)
    target.load_state_dict(cp.plain_state_dict(model), assign=True)
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        target[0].weight.zero_()
    assert_close(model[0].weight.detach(), before, rtol=0, atol=0)


def test_the_plain_state_dict_of_a_plain_model_is_its_own():
    model = plain_model()
    state = cp.plain_state_dict(model)
    assert [(k, v.data_ptr()) for k, v in state.items()] == [
        (k, v.data_ptr()) for k, v in model.state_dict().items()
    ]
    assert state._metadata == model.state_dict()._metadata


@pytest.mark.parametrize("case", ROWS, ids=lambda case: f"{case.constraint!r} {case.shape}")
def test_every_set_goes_there_and_back(case):
    """Into the plain layer and into another layer of the same set, to rounding."""
    torch.manual_seed(3)
    start = case.constraint.sample(case.shape, dtype=torch.float64)
    one = cp.Parametrized(start, case.constraint)
    with torch.no_grad():
        one.x.add_(0.1 * torch.randn_like(one.x))
    y = one.y.detach().clone()
    for state in (one.state_dict(), cp.plain_state_dict(one)):
        other = cp.Parametrized(
            case.constraint.sample(case.shape, dtype=torch.float64), case.constraint
        )
        other.load_state_dict(through_a_file(state), strict=True)
        assert_close(other.y.detach(), y, rtol=1e-9, atol=1e-9)


class Renamed(nn.Linear):
    """Its old checkpoints called the weight ``kernel``; its class knows."""

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if prefix + "kernel" in state_dict:
            state_dict[prefix + "weight"] = state_dict.pop(prefix + "kernel")
        super()._load_from_state_dict(state_dict, prefix, *args)


def renamed_by_a_hook():
    def rename(module, state_dict, prefix, *args):
        if prefix + "kernel" in state_dict:
            state_dict[prefix + "weight"] = state_dict.pop(prefix + "kernel")

    layer = nn.Linear(3, 3)
    layer.register_load_state_dict_pre_hook(rename)
    return layer


@pytest.mark.parametrize("make", [lambda: Renamed(3, 3), renamed_by_a_hook], ids=["class", "hook"])
def test_names_of_old_checkpoints_are_translated_first(make):
    model = nn.Sequential(make())
    hooks = len(model[0]._load_state_dict_pre_hooks)
    cp.register_constrained_parameter(model[0], "weight", ORTHOGONAL)
    old = {"0.kernel": -torch.eye(3), "0.bias": torch.ones(3)}
    for _ in range(2):
        model.load_state_dict(old)
        assert_close(model[0].weight.detach().clone(), -torch.eye(3))
    with pytest.raises(cp.ConstraintViolation):
        model.load_state_dict({**old, "0.kernel": torch.ones(3, 3)})
    assert len(model[0]._load_state_dict_pre_hooks) == hooks


def test_loading_does_not_change_the_checkpoint():
    state = on_the_sets().state_dict()
    keys = list(state)
    constrained_model().load_state_dict(state)
    assert list(state) == keys


def test_a_part_of_the_plain_model_loads_without_strict():
    target, source = constrained_model(), on_the_sets()
    left = target[2].weight_hh.detach().clone()
    found = target.load_state_dict({"0.weight": source[0].weight.detach()}, strict=False)
    assert "0.weight" not in found.unexpected_keys
    assert "0._weight_unconstrained" not in found.missing_keys
    assert "2._weight_hh_unconstrained" in found.missing_keys
    assert_close(target[0].weight.detach(), source[0].weight.detach(), rtol=1e-6, atol=1e-6)
    assert_close(target[2].weight_hh.detach(), left, rtol=0, atol=0)


def test_an_optimizer_resumes():
    def step(model, optimizer):
        optimizer.zero_grad()
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(4))
        forward(model, x).square().sum().backward()
        optimizer.step()

    one = constrained_model()
    adam = torch.optim.Adam(one.parameters(), lr=0.01)
    for _ in range(3):
        step(one, adam)
    saved = through_a_file({"model": one.state_dict(), "optimizer": adam.state_dict()})
    other = constrained_model(5)
    resumed = torch.optim.Adam(other.parameters(), lr=0.01)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    for _ in range(3):
        step(one, adam)
        step(other, resumed)
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert_close(p.detach(), q.detach(), rtol=0, atol=0, msg=name)


def test_an_optimizer_made_before_registration_and_loading():
    model = plain_model()
    adam = torch.optim.Adam(model.parameters(), lr=0.1)
    cp.register_constrained_parameter(model[0], "weight", ORTHOGONAL)
    model.load_state_dict(on_the_sets().state_dict())
    before = model[0].weight.detach().clone()
    forward(model, torch.randn(5, 4)).square().sum().backward()
    adam.step()
    assert (model[0].weight - before).abs().max() > 1e-3
    assert bool(ORTHOGONAL.contains(model[0].weight))


def test_removed_and_registered_again_loads_both_kinds():
    source, target = constrained_model(1), constrained_model(2)
    cp.remove_constrained_parameter(target[0], "weight")
    target.load_state_dict(cp.plain_state_dict(source))
    cp.register_constrained_parameter(target[0], "weight", ORTHOGONAL)
    same(source, target)
    target.load_state_dict(constrained_model(3).state_dict())
    same(constrained_model(3), target)


def test_another_dtype():
    source = on_the_sets().double()
    target = constrained_model()
    with torch.no_grad():
        source[0].weight.copy_(ORTHOGONAL.project(source[0].weight))
    target.load_state_dict(source.state_dict())
    assert target[0].weight.dtype == torch.float32
    same(source.float(), target)


def test_assign_takes_the_dtype_of_the_checkpoint():
    source, target = on_the_sets().bfloat16(), constrained_model()
    target.load_state_dict(source.state_dict(), assign=True)
    assert target[0].weight.dtype == torch.bfloat16
    assert target[0]._weight_base.dtype == torch.float32
    assert bool(ORTHOGONAL.contains(target[0].weight))
    assert_close(target[0].weight.detach(), source[0].weight.detach(), rtol=2**-7, atol=2**-7)


# what is refused ---------------------------------------------------------------------------------


def refused(model, state, error, *words, **options):
    """Loading raises ``error`` with every one of ``words``, and the layer keeps its values."""
    before = [model[0].weight.detach().clone(), model[0].bias.detach().clone()]
    x = model[0]._parameters.get("_weight_unconstrained")
    with pytest.raises(error) as caught:
        model.load_state_dict(state, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    for value, kept in zip((model[0].weight, model[0].bias), before, strict=True):
        assert_close(value.detach(), kept, rtol=0, atol=0)
    assert model[0]._parameters.get("_weight_unconstrained") is x


@pytest.mark.parametrize("options", [{}, {"assign": True}, {"strict": False}])
@pytest.mark.parametrize(
    "other",
    [cp.Orthogonal("cayley"), cp.Interval(-2.0, 2.0), torch.tanh, Scaled()],
    ids=["map", "set", "function", "module"],
)
def test_another_map_is_refused(other, options):
    model = plain_model()
    cp.register_constrained_parameter(model[0], "weight", other)
    state = {k: v for k, v in through_a_file(model.state_dict()).items() if k.startswith("0.")}
    file = type(model.state_dict())(state)
    file._metadata = model.state_dict()._metadata
    words = ("Orthogonal()", "plain_state_dict(model)", "dict(checkpoint)")
    refused(constrained_model(), file, cp.ConstraintError, *words, **options)


def test_the_way_past_the_refusal():
    source = cp.Parametrized(torch.eye(3), cp.Orthogonal("cayley"))
    target = cp.Parametrized(torch.eye(3), cp.Orthogonal())
    target.load_state_dict(dict(source.state_dict()))
    assert_close(target.x.detach(), source.x.detach())


@pytest.mark.parametrize("name", ["same lambda", "local functions"])
def test_names_that_do_not_say_what_a_function_does_are_not_compared(name):
    def first(x):
        return x.exp()

    def second(x):
        return x.exp()

    f, g = (first, second) if name == "local functions" else (lambda x: x.exp(), torch.exp)
    one, other = cp.Parametrized(torch.zeros(3), f), cp.Parametrized(torch.ones(3), g)
    other.load_state_dict(one.state_dict())
    assert other.y.tolist() == [1.0, 1.0, 1.0]


def test_both_keys_are_refused():
    model = constrained_model()
    state = model.state_dict()
    state["0.weight"] = on_the_sets()[0].weight.detach()
    refused(model, state, cp.ConstraintError, "`0.weight`", "`0._weight_unconstrained`", "Delete")


def test_half_precision_is_told_apart():
    state = on_the_sets().bfloat16().state_dict()
    words = ("Linear.weight", "away from Orthogonal()", "bfloat16", "project")
    refused(constrained_model(), state, cp.ConstraintViolation, *words)


def test_a_value_off_the_set_is_refused():
    state = on_the_sets().state_dict()
    state["0.weight"] = 2 * state["0.weight"]
    refused(constrained_model(), state, cp.ConstraintViolation, "Linear.weight", "project")
    state = on_the_sets().state_dict()
    state["0.bias"] = state["0.bias"] + 5  # the second of two: the first is not loaded either
    refused(constrained_model(), state, cp.ConstraintViolation, "Linear.bias")


def test_another_shape_is_refused():
    state = on_the_sets().state_dict()
    state["0.weight"] = torch.eye(5)
    refused(constrained_model(), state, cp.ShapeError, "(4, 4)", "(5, 5)")


def test_no_right_inverse():
    model = plain_model()
    cp.register_constrained_parameter(model[0], "weight", torch.tanh)
    words = ("Linear.weight", "torch.tanh", "_weight_unconstrained", "right_inverse")
    refused(model, on_the_sets().state_dict(), cp.NoRightInverse, *words)


def test_pending_sums_are_refused():
    model = constrained_model()
    with cp.deferred_pullback(model) as deferral:
        forward(model, torch.randn(5, 4)).sum().backward()
        with pytest.raises(cp.PendingGradients):
            model.load_state_dict(on_the_sets().state_dict())
        deferral.discard()
