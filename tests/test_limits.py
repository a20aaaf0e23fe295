"""The limits are what the page says, and each remedy works: those that no other test shows."""

import pytest
import torch
from torch import nn
from torch._dynamo import compiled_autograd
from torch.testing import assert_close

import constrainedparams as cp


def tanh_layer(f=torch.tanh):
    return cp.register_constrained_parameter(nn.Linear(3, 3), "weight", f)


def through_numpy(y):
    y.detach().numpy()[0] = 7.0


def through_a_view(y):
    y[0].data.fill_(7.0)


@pytest.mark.parametrize("write", [through_numpy, through_a_view])
def test_a_write_to_y_that_is_not_seen(write):
    """It reaches what was handed out and neither x nor f: telling makes y anew."""
    layer = tanh_layer()
    write(layer.weight)
    assert layer.weight[0].tolist() == [7.0] * 3
    layer.weight.updated()
    assert_close(layer.weight.detach().clone(), layer._weight_unconstrained.detach().tanh())


def test_what_a_closure_reads_is_announced():
    scale = torch.tensor(1.0)
    layer = tanh_layer(lambda x: torch.tanh(scale * x))
    before = layer.weight
    scale.fill_(2.0)
    assert layer.weight is before
    layer.weight.updated()
    x = layer._weight_unconstrained.detach()
    assert_close(layer.weight.detach().clone(), torch.tanh(2 * x))


def test_torchscript_takes_the_baked_model():
    layer = tanh_layer()
    with pytest.raises(RuntimeError, match="has no attribute 'weight'"):
        torch.jit.script(layer)
    inputs = torch.rand(2, 3)
    assert_close(torch.jit.script(cp.bake(layer))(inputs), layer(inputs))


def test_zeros_of_pruning_are_fixed_entries():
    """Where prune would have put its mask, which it cannot on a constrained weight."""
    layer = nn.Linear(3, 3)
    mask = torch.eye(3) == 0
    cp.register_constrained_parameter(layer, "weight", cp.FixedEntries(mask))
    layer(torch.rand(2, 3)).sum().backward()
    assert not layer.weight[mask].any() and layer.weight[~mask].all()
    assert not layer._weight_unconstrained.grad[mask].any()


def test_names_of_parameters():
    layer = tanh_layer()
    names = [name for name, _ in layer.named_parameters()]
    assert names == ["_weight_unconstrained", "bias"]
    groups = cp.parameter_groups(layer, weight_decay=0.1)
    decayed = [g for g in groups if g["weight_decay"]]
    assert [name for g in decayed for name, _ in g["params"]] == ["bias"]


def test_compiled_autograd_raises_around_an_eager_model():
    """It traces into the node of y and stops there; of a compiled model it takes the graph."""
    x, layer = torch.randn(2, 3), tanh_layer()
    with compiled_autograd._enable(torch.compile(backend="aot_eager")), pytest.raises(RuntimeError):
        for _ in range(2):
            layer(x).sum().backward()
    compiled = torch.compile(layer, backend="aot_eager")
    layer.zero_grad()
    with torch._dynamo.config.patch(compiled_autograd=True):
        for _ in range(2):
            compiled(x).sum().backward()
    found = layer._weight_unconstrained.grad
    leaf = layer._weight_unconstrained.detach().requires_grad_()
    (2 * torch.nn.functional.linear(x, leaf.tanh()).sum()).backward()
    assert_close(found, leaf.grad)


@pytest.mark.parametrize("name", ["exp", "cayley", "householder"])
def test_orthogonal_as_far_out_as_squarings_go(name):
    x = 1e5 * torch.randn(64, 64)
    assert float(torch.linalg.matrix_norm(x, 2)) > 1e6
    assert bool(cp.Orthogonal(name).contains(cp.Orthogonal(name)(x)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a limit of torch on CUDA")
def test_a_foreach_write_on_cuda_that_moves_no_version():
    layer = tanh_layer().cuda()
    _ = layer.weight
    with torch.no_grad():
        x = layer._weight_unconstrained
        torch._foreach_lerp_([x], [torch.ones_like(x)], 0.5)
    cp.updated(layer)
    assert_close(layer.weight.detach().clone(), x.detach().tanh())
