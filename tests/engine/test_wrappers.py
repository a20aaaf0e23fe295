"""Register before DDP or torch.compile wrap a model: afterwards it is refused, with the remedy."""

import contextlib

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import constrainedparams as cp

from .oracle import assert_fresh, assert_untouched, fingerprint, skew_exp


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/group")
    yield
    dist.destroy_process_group()


def compiled(model):
    return torch.compile(model, backend="aot_eager")


def ddp(model):
    return DistributedDataParallel(model)


REMEDY = "before|plain model"
WRAPPERS = {"compile": compiled, "ddp": ddp}


def plain():
    return nn.Linear(4, 4)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_registering_on_a_wrapper(wrap):
    model = plain()
    wrapped = wrap(model)
    before = fingerprint(model)
    with pytest.raises(cp.RegistrationError, match=REMEDY):
        cp.register_constrained_parameter(wrapped, "weight", skew_exp)
    assert_untouched(model, before)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_removing_from_a_wrapper(wrap):
    model = cp.register_constrained_parameter(plain(), "weight", skew_exp)
    wrapped = wrap(model)
    before = fingerprint(model)
    with pytest.raises(cp.RegistrationError, match=REMEDY):
        cp.remove_constrained_parameter(wrapped, "weight")
    assert_untouched(model, before)
    assert_fresh(model, skew_exp)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_registering_on_the_module_inside(wrap):
    model = plain()
    outer = wrap(nn.Sequential(model))
    before = fingerprint(model)
    with pytest.raises(cp.RegistrationError, match=REMEDY):
        cp.register_constrained_parameter(model, "weight", skew_exp)
    assert_untouched(model, before)
    del outer


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_removing_from_the_module_inside(wrap):
    model = cp.register_constrained_parameter(plain(), "weight", skew_exp)
    outer = wrap(nn.Sequential(model))
    before = fingerprint(model)
    with pytest.raises(cp.RegistrationError, match=REMEDY):
        cp.remove_constrained_parameter(model, "weight")
    assert_untouched(model, before)
    del outer


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_the_remedy_register_first(wrap):
    model = cp.register_constrained_parameter(plain(), "weight", skew_exp)
    wrapped = wrap(model)
    wrapped(torch.rand(2, 4)).square().sum().backward()
    want = skew_exp(model._weight_unconstrained.detach())
    torch.testing.assert_close(model.weight.detach().clone(), want)
    assert model._weight_unconstrained.grad.norm() > 0
    with contextlib.suppress(AttributeError):
        assert cp.is_constrained(model, "weight")
    torch._dynamo.reset()
