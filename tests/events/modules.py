"""Section 4 of the rows: operations on modules, checkpoints, copies, averages."""

import copy
import io
import pickle
import tempfile
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import set_model_state_dict
from torch.nn.utils import parameters_to_vector, parametrize, prune, vector_to_parameters
from torch.optim import swa_utils

from .event import Event, Table, X, make

EVENTS = Table()


def row(name, act, **facts):
    EVENTS[name] = Event(name, act, **facts)


@contextmanager
def flag(name):
    setter = getattr(torch.__future__, f"set_{name}_module_params_on_conversion")
    setter(True)
    try:
        yield
    finally:
        setter(False)


def load(layer, **options):
    state = {key: value + 0.2 for key, value in layer.state_dict().items()}
    layer.load_state_dict(state, **options)


row("load_state_dict(assign=False)", load)
row("load_state_dict(assign=True)", lambda m: load(m, assign=True))
row("load_state_dict with swap_module_params_on_conversion", flag("swap")(load))
row("load_state_dict of identical values", lambda m: m.load_state_dict(m.state_dict()),
    changes=False)  # fmt: skip


@EVENTS.row("torch.save -> torch.load(weights_only=True) -> load_state_dict")
def through_a_file(layer):
    file = io.BytesIO()
    torch.save(make().state_dict(), file)
    file.seek(0)
    layer.load_state_dict(torch.load(file, weights_only=True))


@EVENTS.row("safetensors.torch.load_model")
def safetensors_file(layer):
    from safetensors.torch import load_model, save_model

    with tempfile.TemporaryDirectory() as folder:
        save_model(make(), str(Path(folder) / "other.safetensors"))
        load_model(layer, Path(folder) / "other.safetensors")


def checkpointed(into):
    def act(layer):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it says that there is one process
            checkpoint.save(make().state_dict(), checkpoint_id=folder, no_dist=True)
            state = into(layer)
            checkpoint.load(state, checkpoint_id=folder, no_dist=True)
        return state

    return act


def dcp_set(layer):
    state = checkpointed(lambda m: copy.deepcopy(m.state_dict()))(layer)
    set_model_state_dict(layer, state)


row("dcp.load({'weight': p}) in place", checkpointed(lambda m: {X: getattr(m, X)}))
row("dcp.load(module.state_dict()) in place, no load_state_dict",
    checkpointed(nn.Module.state_dict))  # fmt: skip
row("dcp.state_dict.set_model_state_dict", dcp_set)


def from_single(name, act, **facts):
    """The layer is in float32 before."""

    def steps(layer):
        layer.float()
        yield
        act(layer)

    EVENTS[name] = Event(name, steps, **facts)


same = {"changes": False}
none = {"changes": False, "evaluations": 0}
from_single("module.double()", nn.Module.double, **same)
from_single("module.to(bfloat16)", lambda m: m.to(torch.bfloat16))
# torch assigns x.data all the same, and that the memory behind it is the old one proves nothing
row("module.to('cpu') (no-op)", lambda m: m.to("cpu"), **same)
from_single("module.float() on float32 (no-op)", nn.Module.float, **same)
from_single("module.double().float() (round trip)", lambda m: m.double().float(), **same)
row("module.to(memory_format) / contiguous no-op",
    lambda m: m.to(memory_format=torch.channels_last), **same)  # fmt: skip
from_single("module.double() with swap_module_params_on_conversion",
            flag("swap")(nn.Module.double), **same)  # fmt: skip
from_single("module.double().float() with swap", flag("swap")(lambda m: m.double().float()), **same)
from_single("module.double() with overwrite_module_params_on_conversion",
            flag("overwrite")(nn.Module.double), **same)  # fmt: skip


@EVENTS.row("module.to_empty('cpu')", changes=None)
def to_empty(layer):
    """What the new memory holds is not known; zeros will do."""
    layer.to_empty(device="cpu")
    getattr(layer, X).data.zero_()


row("module.share_memory()", nn.Module.share_memory, **same)
row("module.apply(init with p.data.normal_())",
    lambda m: m.apply(lambda part: getattr(part, X).data.normal_()))  # fmt: skip
row("module.weight = nn.Parameter(...)", lambda m: setattr(m, X, nn.Parameter(torch.rand(4, 4))))


@EVENTS.row("del + register_parameter")
def delete_and_register(layer):
    delattr(layer, X)
    layer.register_parameter(X, nn.Parameter(torch.rand(4, 4)))


@EVENTS.row("torch.utils.swap_tensors(p, q)")
def swap(layer):
    torch.utils.swap_tensors(getattr(layer, X), nn.Parameter(torch.rand(4, 4)))


@EVENTS.row("swap_tensors(p, q) with equal counters")
def swap_equal(layer):
    other = nn.Parameter(torch.rand(4, 4))
    for _ in range(50):
        torch.autograd.graph.increment_version(other)
    while getattr(layer, X)._version < other._version:
        torch.autograd.graph.increment_version(getattr(layer, X))
    yield
    assert getattr(layer, X)._version == other._version
    torch.utils.swap_tensors(getattr(layer, X), other)


@EVENTS.row("nn.utils.vector_to_parameters")
def vector(layer):
    vector_to_parameters(torch.rand(16), layer.parameters())


@EVENTS.row("...then in-place change of that vector (it aliases p)", evaluations=0,
            tell="layer.weight.updated()")  # fmt: skip
def aliased_vector(layer):
    flat = torch.rand(16)
    vector_to_parameters(flat, layer.parameters())
    yield
    flat.add_(0.1)


row("nn.utils.parameters_to_vector (read)", lambda m: parameters_to_vector(m.parameters()), **none)
EVENTS.row("copy.deepcopy(module) (look at the copy)", **same)(copy.deepcopy)
EVENTS.row("pickle round trip (look at the copy)", **same)(lambda m: pickle.loads(pickle.dumps(m)))


def averaged(name, **options):
    @EVENTS.row(name)
    def act(layer):
        """The average of two models; its own cache was warm."""
        average = swa_utils.AveragedModel(layer, **options)
        average.update_parameters(layer)
        _ = average.module.weight
        with torch.no_grad():
            getattr(layer, X).add_(0.5)
        _ = average.module.weight
        average.update_parameters(layer)
        return average.module


averaged("AveragedModel.update_parameters (SWA; averaged copy)")
averaged("AveragedModel.update_parameters (EMA, foreach)",
         multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))  # fmt: skip


class Doubled(nn.Module):
    """torch's own parametrization of x, with a right inverse."""

    def forward(self, x):
        return 2 * x

    def right_inverse(self, y):
        return y / 2


def parametrized(name, shield):
    @EVENTS.row(name)
    def act(layer):
        """torch's parametrization makes x anew at each access: f runs at each read."""
        parametrize.register_parametrization(layer, X, Doubled())
        yield
        with shield():
            setattr(layer, X, torch.rand(4, 4))


parametrized("parametrize: module.weight = A (right_inverse)", nullcontext)
parametrized("parametrize: module.weight = A with swap flag", lambda: flag("swap"))


@EVENTS.row("prune.l1_unstructured (weight_orig now the parameter)")
def pruned(layer):
    """x is the product with the mask, made anew before each forward."""
    prune.l1_unstructured(layer, X, 0.5)
