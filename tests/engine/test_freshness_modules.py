"""A warm cache never shows an old value: operations on modules, copies, averages, several models."""

import copy
import io
import pickle
import tempfile
import warnings

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import set_model_state_dict
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from .oracle import (
    assert_fresh,
    change,
    constrained_linear,
    counted_linear,
    equal,
    loss_of,
    skew_exp,
    tanh_exp,
    warm,
)

F32 = {"rtol": 1e-5, "atol": 1e-6}


def new():
    return torch.rand(4, 4) - 0.5


def load(layer, **options):
    state = copy.deepcopy(layer.state_dict())
    state["_weight_unconstrained"] += 0.2
    layer.load_state_dict(state, **options)


def with_flag(flag, action):
    def event(layer):
        setter = getattr(torch.__future__, f"set_{flag}")
        setter(True)
        try:
            action(layer)
        finally:
            setter(False)

    return event


swap = "swap_module_params_on_conversion"
overwrite = "overwrite_module_params_on_conversion"


def load_before_first_read(layer):
    load(layer)
    load(layer, assign=True)


def to_meta_and_back(layer):
    layer.to("meta")
    assert layer.weight.is_meta
    layer.to_empty(device="cpu")
    nn.init.uniform_(layer._weight_unconstrained)


def to_empty(layer):
    layer.to_empty(device="cpu")
    nn.init.uniform_(layer._weight_unconstrained)


def share_memory(layer):
    layer.share_memory()
    change(layer._weight_unconstrained)


def apply_data_init(layer):
    layer.apply(lambda m: m._weight_unconstrained.data.normal_())


def new_parameter(layer):
    layer._weight_unconstrained = nn.Parameter(new())


def reassign_same_object(layer):
    """As FSDP2 does after each all-gather: refilled unseen by the counter, then set again."""
    x = layer._weight_unconstrained
    with torch.no_grad(), torch.autograd._unsafe_preserve_version_counter(x):
        x.copy_(new())
    layer._weight_unconstrained = x


def delete_and_register(layer):
    del layer._weight_unconstrained
    layer.register_parameter("_weight_unconstrained", nn.Parameter(new()))


def parameter_dict(layer):
    layer._parameters["_weight_unconstrained"] = nn.Parameter(new())


def swap_tensors(layer):
    torch.utils.swap_tensors(layer._weight_unconstrained, nn.Parameter(new()))


def swap_tensors_equal_counters(layer):
    """The version counters agree before and after: only the storage tells."""
    x = layer._weight_unconstrained
    other = nn.Parameter(new())
    while other._version < x._version:
        torch.autograd.graph.increment_version(other)
    while other._version > x._version:
        torch.autograd.graph.increment_version(x)
        _ = layer.weight
    before = x._version
    torch.utils.swap_tensors(x, other)
    assert x._version == before


def vector(layer):
    flat = parameters_to_vector(layer.parameters()).detach()
    vector_to_parameters(flat + 0.1, layer.parameters())


def through_a_file(layer):
    file = io.BytesIO()
    state = {name: value + 0.2 for name, value in layer.state_dict().items()}
    torch.save(state, file)
    file.seek(0)
    layer.load_state_dict(torch.load(file, weights_only=True))


def checkpointed(load):
    """Save the state of another layer with torch.distributed.checkpoint, load it here."""

    def event(layer):
        other = constrained_linear(tanh_exp).to(layer._weight_unconstrained.dtype)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # it says that there is one process
            warnings.simplefilter("ignore", UserWarning)
            checkpoint.save(other.state_dict(), checkpoint_id=folder, no_dist=True)
            state = layer.state_dict()
            checkpoint.load(state, checkpoint_id=folder, no_dist=True)
            load(layer, state)
        equal(layer._weight_unconstrained, other._weight_unconstrained)

    return event


MODULE = {
    "load_weights_only_file": through_a_file,
    "dcp_in_place": checkpointed(lambda layer, state: None),
    "dcp_set_model_state_dict": checkpointed(set_model_state_dict),
    "load": load,
    "load_assign": lambda m: load(m, assign=True),
    "load_swap": with_flag(swap, load),
    "load_swap_assign": with_flag(swap, lambda m: load(m, assign=True)),
    "load_twice": load_before_first_read,
    "load_same_values": lambda m: m.load_state_dict(m.state_dict()),
    "double": nn.Module.double,
    "float": nn.Module.float,
    "float_double": lambda m: m.float().double(),
    "to_float32": lambda m: m.to(torch.float32),
    "double_swap": with_flag(swap, lambda m: m.float().double()),
    "float_swap": with_flag(swap, nn.Module.float),
    "float_overwrite": with_flag(overwrite, nn.Module.float),
    "channels_last_noop": lambda m: m.to(device="cpu"),
    "meta": to_meta_and_back,
    "to_empty": to_empty,
    "share_memory": share_memory,
    "apply_data_init": apply_data_init,
    "new_parameter": new_parameter,
    "reassign_same_object": reassign_same_object,
    "delete_register": delete_and_register,
    "parameter_dict": parameter_dict,
    "swap_tensors": swap_tensors,
    "swap_equal_counters": swap_tensors_equal_counters,
    "vector_to_parameters": vector,
    "train_eval": lambda m: m.eval().train(),
    "zero_grad": nn.Module.zero_grad,
}


@pytest.mark.parametrize("f", [skew_exp, tanh_exp])
@pytest.mark.parametrize("event", MODULE.values(), ids=MODULE)
def test_module_operation(event, f):
    layer = constrained_linear(f)
    warm(layer)
    event(layer)
    x = layer._weight_unconstrained
    tolerance = {} if x.dtype == torch.float64 else F32
    assert_fresh(layer, f, **tolerance)
    assert layer.weight.dtype == x.dtype


@pytest.mark.parametrize("event", MODULE.values(), ids=MODULE)
def test_the_next_write_after_a_module_operation(event):
    """Whatever object x is now, it is watched as the first one was."""
    layer = constrained_linear(tanh_exp)
    warm(layer)
    event(layer)
    x = layer._weight_unconstrained
    tolerance = {} if x.dtype == torch.float64 else F32
    warm(layer)
    change(x)
    assert_fresh(layer, tanh_exp, **tolerance)
    x.data.mul_(0.5)
    assert_fresh(layer, tanh_exp, **tolerance)
    loss_of(layer.weight).backward()
    torch.optim.SGD(layer.parameters(), lr=0.1, fused=True).step()
    assert_fresh(layer, tanh_exp, **tolerance)


def pickled(layer):
    return pickle.loads(pickle.dumps(layer))


def saved(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": pickled, "torch_save": saved}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_are_independent(copied):
    layer = constrained_linear()
    warm(layer)
    twin = copied(layer)
    assert_fresh(twin, skew_exp)
    assert twin.weight is not layer.weight
    kept = layer.weight.detach().clone()
    change(twin._weight_unconstrained)
    assert_fresh(twin, skew_exp)
    equal(layer.weight, kept)
    change(layer._weight_unconstrained, seed=3)
    assert_fresh(layer, skew_exp)
    assert_fresh(twin, skew_exp)


@pytest.mark.parametrize("multi_avg_fn", [None, "ema"])
def test_averaged_model(multi_avg_fn):
    options = {}
    if multi_avg_fn:
        options["multi_avg_fn"] = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    layer = constrained_linear()
    warm(layer)
    average = torch.optim.swa_utils.AveragedModel(layer, **options)
    for seed in range(3):
        warm(average.module)
        change(layer._weight_unconstrained, seed)
        average.update_parameters(layer)
        assert_fresh(average.module, skew_exp)
        assert_fresh(layer, skew_exp)


def test_a_step_on_one_model_recomputes_nothing_of_another():
    """The D step of a GAN leaves G alone."""
    (g, of_g), (d, of_d) = counted_linear(), counted_linear()
    opt_g = torch.optim.SGD(g.parameters(), lr=0.1)
    opt_d = torch.optim.SGD(d.parameters(), lr=0.1)
    for _ in range(3):
        for _ in range(2):
            d(g(torch.rand(2, 4)).detach()).square().sum().backward()
            opt_d.step()
            opt_d.zero_grad()
        d(g(torch.rand(2, 4))).square().sum().backward()
        opt_g.step()
        opt_g.zero_grad()
        opt_d.zero_grad()
    # g: once per own step; d: twice, plus the read after its second step
    assert of_g.counts == (3, 3)
    assert of_d.evaluations == 7
    assert_fresh(g, tanh_exp)
    assert_fresh(d, tanh_exp)


def test_forward_backward_zero_grad_train_eval_recompute_nothing():
    layer, counting = counted_linear()
    for _ in range(3):
        layer.train()
        layer(torch.rand(2, 4)).sum().backward()
        layer.zero_grad()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        layer.eval()
    assert counting.evaluations == 1
