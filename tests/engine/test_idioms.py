"""What people write with a layer's weight: each idiom works, or explains itself."""

import copy
import io

import pytest
import torch
from torch import nn

import constrainedparams as cp

from .oracle import Symmetric, assert_fresh, equal, loss_of, naive, skew_exp

f = Symmetric()


def symmetric():
    t = torch.rand(4, 4)
    return t + t.t()


def make():
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(symmetric())
    return cp.register_constrained_parameter(layer, "weight", f)


def parameter_of_weight(layer):
    p = nn.Parameter(layer.weight)
    assert isinstance(p, nn.Parameter) and p.is_leaf and p.requires_grad
    equal(p, layer.weight)
    loss_of(p).backward()
    assert p.grad is not None and layer._weight_unconstrained.grad is None
    torch.optim.SGD([p], lr=0.0).step()


def assign_parameter(layer):
    t = symmetric()
    layer.weight = nn.Parameter(t.clone())
    equal(layer.weight, t)
    assert cp.is_constrained(layer, "weight")
    assert "weight" not in layer._parameters


def assign_parameter_off_the_set(layer):
    with pytest.raises(cp.ConstraintViolation, match="weight"):
        layer.weight = nn.Parameter(torch.rand(4, 4))


def freeze_through_y(layer):
    layer.weight.requires_grad_(False)
    assert not layer._weight_unconstrained.requires_grad
    assert not layer.weight.requires_grad
    layer.weight.requires_grad_(True)
    assert layer._weight_unconstrained.requires_grad
    assert layer.weight.requires_grad


def retain_grad(layer):
    y = layer.weight
    y.retain_grad()
    loss_of(layer.weight).backward()
    want = y.detach().clone().requires_grad_()
    loss_of(want).backward()
    equal(layer.weight.grad, want.grad)
    equal(layer._weight_unconstrained.grad, naive(f, layer._weight_unconstrained)[1])


def save_the_tensor(layer):
    file = io.BytesIO()
    torch.save({"w": layer.weight}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["w"]
    equal(loaded, layer.weight)
    assert type(loaded) is torch.Tensor


def assign_data(layer):
    t = symmetric()
    layer.weight.data = t
    equal(layer.weight, t)


def assign_data_off_the_set(layer):
    with pytest.raises(cp.ConstraintViolation, match="weight"):
        layer.weight.data = torch.rand(4, 4)
        _ = layer.weight


def deepcopy_the_tensor(layer):
    twin = copy.deepcopy(layer.weight)
    equal(twin, layer.weight)
    assert type(twin) is torch.Tensor
    with torch.no_grad():
        twin.add_(1.0)
    _ = layer.weight


def apply_init(layer):
    def init(module):
        if isinstance(module, nn.Linear):
            nn.init.eye_(module.weight)
            nn.init.zeros_(module.bias)

    nn.Sequential(layer).apply(init)
    equal(layer.weight, torch.eye(4))
    equal(layer.bias, torch.zeros(4))


def apply_init_off_the_set(layer):
    def init(module):
        if isinstance(module, nn.Linear):
            nn.init.uniform_(module.weight)
            module(torch.rand(1, 4))

    with pytest.raises(cp.ConstraintViolation, match="weight"):
        nn.Sequential(layer).apply(init)


def reset_parameters(layer):
    """From the next access, which may be inside the same call."""
    with pytest.raises(cp.ConstraintViolation, match="weight"):
        layer.reset_parameters()
        _ = layer.weight


def tensor_constructor(layer):
    t = torch.tensor(layer.weight.tolist())
    equal(t, layer.weight)


def numpy_of_detached(layer):
    assert layer.weight.detach().numpy().shape == (4, 4)
    assert (layer.weight.detach().cpu().numpy() == layer.weight.tolist()).all()


def arithmetic_is_plain(layer):
    for result in (layer.weight + 1, layer.weight.t(), layer.weight @ layer.weight,
                   layer.weight[0], layer.weight.clone(), layer.weight.detach()):  # fmt: skip
        assert type(result) is torch.Tensor or not result.requires_grad
    assert type(layer.weight * 2) is torch.Tensor


def out_of_place_init(layer):
    t = torch.empty_like(layer.weight)
    assert t.shape == (4, 4) and t.is_leaf
    zeros = torch.zeros_like(layer.weight)
    assert not zeros.requires_grad


def shape_attributes(layer):
    y = layer.weight
    assert (y.shape, y.dtype, y.device, y.size(0)) == (
        (4, 4),
        torch.float64,
        torch.device("cpu"),
        4,
    )
    assert isinstance(y, torch.Tensor) and torch.is_tensor(y)
    assert "weight" not in dict(layer.named_parameters())


def functional_linear(layer):
    inputs = torch.rand(2, 4)
    equal(nn.functional.linear(inputs, layer.weight, layer.bias), layer(inputs))


def weight_penalty(layer):
    (layer(torch.rand(2, 4)).square().sum() + 0.1 * layer.weight.norm() ** 2).backward()
    assert layer._weight_unconstrained.grad is not None


def named_state(layer):
    state = layer.state_dict()
    assert list(state) == ["_weight_unconstrained", "bias"] or set(state) == {
        "_weight_unconstrained",
        "bias",
    }
    assert all(type(v) is torch.Tensor for v in state.values())


def strict_zero_grad(layer):
    loss_of(layer.weight).backward()
    layer.zero_grad()
    assert layer._weight_unconstrained.grad is None


IDIOMS = {
    idiom.__name__: idiom
    for idiom in (
        parameter_of_weight,
        assign_parameter,
        assign_parameter_off_the_set,
        freeze_through_y,
        retain_grad,
        save_the_tensor,
        assign_data,
        assign_data_off_the_set,
        deepcopy_the_tensor,
        apply_init,
        apply_init_off_the_set,
        reset_parameters,
        tensor_constructor,
        numpy_of_detached,
        arithmetic_is_plain,
        out_of_place_init,
        shape_attributes,
        functional_linear,
        weight_penalty,
        named_state,
        strict_zero_grad,
    )
}


@pytest.mark.parametrize("idiom", IDIOMS.values(), ids=IDIOMS)
def test_idiom(idiom):
    layer = make()
    idiom(layer)
    assert_fresh(layer, f)


def test_reset_parameters_on_the_set_is_written_through():
    layer = nn.Linear(4, 4)
    cp.register_constrained_parameter(layer, "weight", cp.Interval(-9.0, 9.0))
    before = layer.weight.detach().clone()
    torch.manual_seed(3)
    layer.reset_parameters()
    torch.manual_seed(3)
    want = nn.Linear(4, 4)
    equal(layer.weight, want.weight, rtol=1e-11, atol=1e-12)
    equal(layer.bias, want.bias)
    assert not torch.equal(layer.weight, before)


def test_orthogonal_init_of_an_orthogonal_weight():
    layer = nn.Linear(6, 6)
    cp.register_constrained_parameter(layer, "weight", cp.Orthogonal())
    component = torch.linalg.det(layer.weight).sign()
    for seed in range(4):
        torch.manual_seed(seed)
        target = nn.init.orthogonal_(torch.empty(6, 6))
        torch.manual_seed(seed)
        with torch.no_grad():
            nn.init.orthogonal_(layer.weight)
        equal(layer.weight, target, rtol=0, atol=1e-12)
    assert component.abs() == 1


def test_repr_of_y_shows_the_numbers():
    layer = cp.register_constrained_parameter(nn.Linear(2, 2), "weight", skew_exp)
    assert f"{layer.weight[0, 0].item():.4f}"[:5] in repr(layer.weight)
