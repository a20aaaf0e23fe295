"""Corners of daily life: averages, rescaling, sparse gradients, constructors, shallow copies, names."""

import copy
import functools
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import constrainedparams as cp


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def bounded(x):
    return torch.tanh(x) + 0.1 * torch.exp(x)


# Map state that was averaged is put back on the set
@pytest.mark.parametrize("options", [{}, {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}])
def test_averaged_map_state_is_put_back_on_the_set(options):
    model = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", cp.Orthogonal())
    average = AveragedModel(model, use_buffers=True, **options)
    average.update_parameters(model)
    nn.init.orthogonal_(model.weight)  # a new base
    _ = model.weight
    average.update_parameters(model)
    nearest = cp.Orthogonal().project(average.module._weight_base)
    assert cp.Orthogonal().contains(average.module.weight)
    assert torch.allclose(average.module._weight_base, nearest, atol=1e-12)


def test_ema_over_the_state_dict():
    model = cp.register_constrained_parameter(nn.Linear(4, 4), "weight", cp.Orthogonal())
    shadow = copy.deepcopy(model)
    nn.init.orthogonal_(model.weight)
    _ = model.weight
    with torch.no_grad():
        for name, value in shadow.state_dict().items():
            value.lerp_(model.state_dict()[name], 0.3)
    assert cp.Orthogonal().contains(shadow.weight)


# max_norm rescales y inside the forward, where the derivative is that of the former y
def test_max_norm_is_refused():
    with pytest.raises(cp.RegistrationError, match=r"max_norm=0\.5.*Sphere"):
        cp.register_constrained_parameter(
            nn.Embedding(5, 3, max_norm=0.5), "weight", cp.Interval(-1.0, 1.0)
        )


# Sparse gradients become dense: derivatives of maps are written for those
@pytest.mark.parametrize(
    "f",
    [torch.tanh, cp.Positive(), cp.Interval(-1, 1), cp.Sphere(), cp.Orthogonal()],
    ids=["tanh", "positive", "interval", "sphere", "orthogonal"],
)
def test_sparse_embedding(f):
    embedding = nn.Embedding(5, 3, sparse=True)
    cp.register_constrained_parameter(embedding, "weight", f)
    dense = nn.Embedding(5, 3, _weight=embedding.weight.detach().clone())
    cp.register_constrained_parameter(dense, "weight", f)
    with torch.no_grad():
        dense._weight_unconstrained.copy_(embedding._weight_unconstrained)
    for m in (embedding, dense):
        m(torch.tensor([0, 3])).square().sum().backward()
    got = embedding._weight_unconstrained.grad
    torch.testing.assert_close(got.to_dense(), dense._weight_unconstrained.grad)


def test_sparse_and_dense_sums_of_a_deferred_block():
    e = cp.register_constrained_parameter(nn.Embedding(5, 3, sparse=True), "weight", torch.exp)
    with cp.deferred_pullback(e):
        e(torch.tensor([0, 3])).square().sum().backward()
        e.weight.sum().backward()
    e.weight.sum().backward()


# type(module)(...) is a plain module
def test_a_slice_of_a_parameter_list():
    matrices = nn.ParameterList([torch.rand(3) for _ in range(3)])
    cp.register_constrained_parameter(matrices, "0", bounded)
    assert len(matrices[0:2]) == 2


def test_another_module_of_the_type():
    layer = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", bounded)
    other = type(layer)(3, 3)
    assert not cp.is_constrained(other) and isinstance(other, nn.Linear)
    other(torch.rand(1, 3))


class ByConstructor(nn.Module):
    def __init__(self, n=3):
        super().__init__()
        self.n = n
        self.w = nn.Parameter(torch.rand(n))
        cp.register_constrained_parameter(self, "w", bounded)

    def __deepcopy__(self, memo):
        new = type(self)(self.n)
        new.load_state_dict(self.state_dict())
        return new


def test_deepcopy_by_the_constructor():
    module = ByConstructor()
    twin = copy.deepcopy(module)
    assert type(twin) is type(module)
    torch.testing.assert_close(twin.w.detach().clone(), module.w.detach().clone())


# A class with a __reduce__ of its own
class Reduced(nn.Module):
    def __init__(self, n=3):
        super().__init__()
        self.n = n
        self.w = nn.Parameter(torch.rand(n))
        cp.register_constrained_parameter(self, "w", bounded)

    def __reduce__(self):
        return _reduced, (self.n, self.state_dict())


def _reduced(n, state):
    module = Reduced(n)
    module.load_state_dict(state)
    return module


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_own_reduce(copied):
    module = Reduced()
    twin = copied(module)
    assert type(twin) is type(module)
    torch.testing.assert_close(twin.w.detach().clone(), module.w.detach().clone())


# The user's __init_subclass__ does not run for a generated class
class Registered(nn.Module):
    known = ()

    def __init_subclass__(cls, *, key, **kwargs):
        super().__init_subclass__(**kwargs)
        Registered.known += (key,)


class Named(Registered, key="named"):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.rand(3))


def test_init_subclass_of_a_user():
    cp.register_constrained_parameter(Named(), "w", bounded)
    assert Registered.known == ("named",)


# The class is not set through the user's __setattr__
class Strict(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.rand(3))
        self.sealed = True

    def __setattr__(self, name, value):
        if getattr(self, "sealed", False):
            raise TypeError(f"{name}: this module is sealed")
        super().__setattr__(name, value)


def test_setattr_of_a_user():
    module = Strict()
    cp.register_constrained_parameter(module, "w", bounded)
    torch.testing.assert_close(module.w.detach().clone(), bounded(module._w_unconstrained.detach()))
    cp.remove_constrained_parameter(module, "w")
    assert type(module) is Strict


# A shallow copy when the other one registers or removes
def test_removing_from_a_shallow_copy():
    layer = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", bounded)
    twin = copy.copy(layer)
    cp.remove_constrained_parameter(layer, "weight")
    assert twin.weight is layer.weight  # as in torch, they share _parameters


def test_registering_on_a_shallow_copy():
    layer = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", bounded)
    twin = copy.copy(layer)
    cp.register_constrained_parameter(layer, "bias", torch.tanh)
    torch.testing.assert_close(twin.bias.detach().clone(), layer.bias.detach().clone())


# A refused deletion changes nothing
@pytest.mark.parametrize(
    "delete", [lambda d: d.pop("a"), lambda d: d.__delitem__("a"), nn.ParameterDict.clear]
)
def test_a_refused_deletion_changes_nothing(delete):
    d = nn.ParameterDict({"a": torch.rand(3), "b": torch.rand(3)})
    cp.register_constrained_parameter(d, "a", bounded)
    try:
        delete(d)
    except cp.RegistrationError:
        assert list(d) == ["a", "b"]
    else:
        assert "a" not in list(d) and "_a_unconstrained" not in d._parameters


# The flat list of an RNN does not keep the graph of the last step
def test_an_rnn_holds_nothing_between_steps():
    lstm = cp.register_constrained_parameter(nn.LSTM(3, 4), "weight_hh_l0", bounded)
    lstm(torch.rand(2, 1, 3))[0].sum().backward()
    graph = weakref.ref(lstm.__dict__["_constrained_slots"]["weight_hh_l0"].record.graph)
    torch.optim.SGD(lstm.parameters(), lr=0.1).step()
    gc.collect()
    assert graph() is None


# The idiom in the documentation of Module.apply
def test_the_idiom_of_the_docs_of_apply():
    layer = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", cp.Interval(-9, 9))
    assert type(layer) == nn.Linear  # noqa: E721


# The cache cannot be assigned
def test_the_cache_cannot_be_assigned():
    layer = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", bounded)
    with pytest.raises(cp.ConstraintError, match="updated"):
        layer._weight_cache = torch.zeros(3, 3)


# No addresses in repr, messages and metadata
class Own:
    def __call__(self, x):
        return x.exp()


@pytest.mark.parametrize(
    "f", [Own(), functools.partial(torch.clamp, min=0.0), functools.partial(bounded)]
)
def test_no_addresses(f):
    layer = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", f)
    assert "0x" not in repr(layer)
    assert "0x" not in str(layer.state_dict()._metadata)


def test_a_set_with_long_constants_prints_shortly():
    box = cp.Interval(-torch.ones(500), torch.ones(500))
    layer = cp.register_constrained_parameter(nn.Linear(500, 2), "weight", box)
    assert len(repr(layer)) < 400
    with pytest.raises(cp.ConstraintViolation) as caught:
        layer.weight = 2 * torch.ones(2, 500)
    assert len(str(caught.value)) < 600


# x set to None
def test_x_set_to_none_is_explained():
    layer = cp.register_constrained_parameter(nn.Linear(3, 3), "weight", bounded)
    layer._weight_unconstrained = None
    with pytest.raises(cp.ConstraintError, match="_weight_unconstrained"):
        _ = layer.weight
