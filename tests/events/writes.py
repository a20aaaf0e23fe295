"""Section 3 of the rows: direct writes to x."""

import ctypes
import os
import warnings

import torch
from torch import nn

from .event import Event, Table, X

EVENTS = Table()
TOLD = {"evaluations": 0, "tell": "layer.weight.updated()"}


def new():
    return torch.rand(4, 4) - 0.5


def row(name, write, **facts):
    EVENTS[name] = Event(name, lambda layer: write(getattr(layer, X)), **facts)


def no_grad(name, write, **facts):
    row(name, torch.no_grad()(write), **facts)


def put(x, value):
    x[0] = value


def assign_data(x, value):
    x.data = value


def assign_sum(x):
    x.data = x.data + 1


no_grad("p.copy_(v) under no_grad", lambda x: x.copy_(new()))
no_grad("p.add_() under no_grad", lambda x: x.add_(0.1))
no_grad("p[0] = v under no_grad (view write)", lambda x: put(x, 0.3))
row("p.detach().add_()", lambda x: x.detach().add_(0.1))
row("p.detach().view(-1)[3:5].mul_()", lambda x: x.detach().view(-1)[3:5].mul_(3.0))
no_grad("torch.add(..., out=p) under no_grad", lambda x: torch.add(x.detach(), 0.1, out=x.detach()))
no_grad("torch._foreach_add_([p]) under no_grad", lambda x: torch._foreach_add_([x], 0.1))
row("nn.init.orthogonal_(p)", nn.init.orthogonal_)
row("p.add_() under inference_mode (normal p)", torch.inference_mode()(lambda x: x.add_(0.1)))
row("p.copy_() under inference_mode (normal p)", torch.inference_mode()(lambda x: x.copy_(new())))
row("p.data = t", lambda x: assign_data(x, new()))
row("p.data = p.data + 1", assign_sum)
row("p.data.add_()", lambda x: x.data.add_(0.1))
row("p.data.copy_(v)", lambda x: x.data.copy_(new()))
row("p.data.clamp_()  (WGAN style)", lambda x: x.data.clamp_(-0.01, 0.01))
row("p.data[0] = v", lambda x: put(x.data, 0.3))
row("nn.init.orthogonal_(p.data)", lambda x: nn.init.orthogonal_(x.data))
no_grad("p.set_(t) under no_grad", lambda x: x.set_(new()))
row("torch.autograd.graph.increment_version(p)", torch.autograd.graph.increment_version,
    changes=False)  # fmt: skip
row("p.share_memory_() (value kept)", lambda x: x.share_memory_(), changes=False)
row("p.requires_grad_(False) (freeze)", lambda x: x.requires_grad_(False), changes=False)


def numpy_alias(x):
    x.detach().numpy()[0, 1] = 0.7


def raw_pointer(x):
    ctypes.memmove(x.data_ptr(), (ctypes.c_double * 16)(*torch.rand(16).tolist()), 16 * 8)


row("write through p.detach().numpy()", numpy_alias, **TOLD)
row("write through a DLPack alias", lambda x: torch.from_dlpack(x.detach()).add_(0.1), **TOLD)
row("p.untyped_storage().copy_()",
    lambda x: x.untyped_storage().copy_(new().untyped_storage()), **TOLD)  # fmt: skip
row("raw pointer write (ctypes / C++ ext / Triton kernel by ptr)", raw_pointer, **TOLD)


@torch.library.custom_op("cp_events::halve_", mutates_args={"x"})
def halve_(x: torch.Tensor) -> None:
    x.mul_(0.5)


no_grad("torch.library.custom_op(mutates_args={'x'}) on p", halve_)


@EVENTS.row("_unsafe_preserve_version_counter(p): p.add_()  (as FSDP2)", **TOLD)
def counter_put_back(layer):
    x = getattr(layer, X)
    with torch.no_grad(), torch.autograd._unsafe_preserve_version_counter(x):
        x.add_(0.1)


@EVENTS.row("shared memory: another process does p.add_() (Hogwild)", **TOLD)
def another_process(layer):
    getattr(layer, X).share_memory_()
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python >= 3.12: fork beside threads
        child = os.fork()
    if child == 0:
        with torch.no_grad():
            getattr(layer, X).add_(0.1)
        os._exit(0)
    os.waitpid(child, 0)


def compiled(name, backend, write):
    def act(layer):
        x = getattr(layer, X)
        torch.compile(torch.no_grad()(lambda: write(x)), backend=backend)()
        torch._dynamo.reset()

    EVENTS[name] = Event(name, act)


compiled("torch.compile'd p.add_() (inductor)", "inductor", lambda x: x.add_(0.1))
compiled("torch.compile'd p.add_() (aot_eager)", "aot_eager", lambda x: x.add_(0.1))
compiled("torch.compile'd p.data.add_() (inductor)", "inductor", lambda x: x.data.add_(0.1))


@EVENTS.row("forward/backward/zero_grad/train()/eval()", changes=False, evaluations=0)
def ordinary(layer):
    layer(torch.rand(2, 4)).sum().backward()
    layer.zero_grad()
    layer.train().eval().train()
