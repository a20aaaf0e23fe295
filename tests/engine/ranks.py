"""Run by a test once per rank: trains under DDP and FSDP2 and writes what came out to a file.

python ranks.py RANK WORLD_SIZE FOLDER
"""

import sys
import traceback
import weakref
from contextlib import ExitStack
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import constrainedparams as cp

N, STEPS, MICRO = 4, 3, 3


class Counted:
    def __init__(self, f):
        self.f, self.evaluations = f, 0

    def __call__(self, x):
        self.evaluations += 1
        return self.f(x)


def skew_exp(x):
    return torch.matrix_exp(x.triu(1) - x.triu(1).t())


def f_last(x):
    return torch.tanh(x) + 0.1 * torch.exp(x)


def build(seed=0):
    """(model, the two counting functions), the same on every rank for the same seed."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(N, N), nn.Tanh(), nn.Linear(N, N))
    functions = Counted(skew_exp), Counted(f_last)
    for layer, f in zip((model[0], model[2]), functions, strict=True):
        cp.register_constrained_parameter(layer, "weight", f)
    return model, functions


def batches(step):
    """(MICRO, 4, N): the rows of all ranks."""
    return torch.rand(MICRO, 4, N, generator=torch.Generator().manual_seed(100 + step))


def mine(batch, rank):
    return batch.chunk(dist.get_world_size())[rank]


def plain(tensor):
    tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return tensor.detach().clone()


def state(model):
    return {n.removeprefix("module."): plain(p) for n, p in model.named_parameters()}


def train(model, functions, rank, micro=1, no_sync=None, deferred=None, optimizer=torch.optim.SGD):
    """Per step: the parameters afterwards, and how often f ran."""
    optimizer = optimizer(model.parameters(), lr=0.1, momentum=0.9)
    history = []
    for step in range(STEPS):
        before = [f.evaluations for f in functions]
        rows = batches(step)[:micro]
        with ExitStack() as stack:
            if micro > 1 and deferred is not None:
                stack.enter_context(cp.deferred_pullback(deferred))
            if micro > 1 and no_sync is not None:
                stack.enter_context(no_sync())
            for batch in rows[:-1]:
                model(mine(batch, rank)).sin().square().mean().backward()
        model(mine(rows[-1], rank)).sin().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ran = [f.evaluations - b for f, b in zip(functions, before, strict=True)]
        history.append((state(model), ran))
    return history


def ddp(rank, **options):
    model, functions = build()
    return model, functions, DistributedDataParallel(model, **options)


def scenario_ddp(rank):
    _, functions, wrapped = ddp(rank)
    return train(wrapped, functions, rank, optimizer=partial(torch.optim.SGD, fused=True))


def scenario_ddp_bucket_view(rank):
    _, functions, wrapped = ddp(rank, gradient_as_bucket_view=True)
    return train(wrapped, functions, rank)


def scenario_ddp_accumulate(rank):
    _, functions, wrapped = ddp(rank)
    return train(wrapped, functions, rank, MICRO, wrapped.no_sync)


def scenario_ddp_deferred(rank):
    model, functions, wrapped = ddp(rank)
    return train(wrapped, functions, rank, MICRO, wrapped.no_sync, model)


def scenario_ddp_deferred_through_the_wrapper(rank):
    _, functions, wrapped = ddp(rank, find_unused_parameters=False)
    return train(wrapped, functions, rank, MICRO, wrapped.no_sync, wrapped)


def scenario_zero_optimizer(rank):
    """Each rank steps its own share and receives the rest in place, unseen by version counters."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    _, functions, wrapped = ddp(rank)
    make = partial(ZeroRedundancyOptimizer, optimizer_class=torch.optim.SGD)
    return train(wrapped, functions, rank, optimizer=make)


def scenario_local_averaging(rank):
    """Post-local SGD: parameters are averaged by assigning .data."""
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

    model, _ = build()
    averager = PeriodicModelAverager(period=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    out = []
    for step in range(2):
        model(mine(batches(step)[0], rank)).square().mean().backward()
        optimizer.step()
        _ = model[0].weight
        averager.average_parameters(list(model.parameters()))
        optimizer.zero_grad()
        out.append((plain(model[0].weight), plain(skew_exp(model[0]._weight_unconstrained))))
    return out


def scenario_ddp_broadcasts_at_construction(rank):
    model, _ = build(seed=rank)
    _ = model[0].weight, model[2].weight
    DistributedDataParallel(model)
    return plain(model[0].weight), plain(skew_exp(model[0]._weight_unconstrained))


def scenario_collectives_are_told(rank):
    """In-place collectives move no counter: updated() tells."""
    model, _ = build(seed=rank)
    out = []
    for collective in (lambda t: dist.all_reduce(t), lambda t: dist.broadcast(t, 0)):
        _ = model[0].weight
        with torch.no_grad():
            collective(model[0]._weight_unconstrained.data)
        cp.updated(model)
        out.append((plain(model[0].weight), plain(skew_exp(model[0]._weight_unconstrained))))
    return out


def scenario_verified_sees_collectives(rank):
    torch.manual_seed(rank)
    layer = cp.register_constrained_parameter(
        nn.Linear(N, N), "weight", skew_exp, update="verified"
    )
    _ = layer.weight
    with torch.no_grad():
        dist.all_reduce(layer._weight_unconstrained.data)
    return [(plain(layer.weight), plain(skew_exp(layer._weight_unconstrained)))]


def shard(model, reshard):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh, reshard_after_forward=reshard)
    return fully_shard(model, mesh=mesh, reshard_after_forward=reshard)


def scenario_fsdp(rank):
    model, functions = build()
    return train(shard(model, True), functions, rank)


def scenario_fsdp_without_reshard(rank):
    model, functions = build()
    return train(shard(model, False), functions, rank)


def scenario_fsdp_accumulate_deferred(rank):
    model, functions = build()
    return train(shard(model, True), functions, rank, MICRO, None, model)


def scenario_fsdp_load(rank):
    """A sharded checkpoint of another seed, then evaluation."""
    source, _ = build(seed=5)
    source = shard(source, True)
    model, _ = build()
    model = shard(model, True)
    inputs = batches(0)[0]
    with torch.no_grad():
        model(inputs)
    model.load_state_dict(source.state_dict())
    want, _ = build(seed=5)
    with torch.no_grad():
        return plain(model(inputs)), plain(want(inputs))


def scenario_fsdp_read_outside_forward(rank):
    model, _ = build()
    shard(model, True)
    try:
        _ = model[0].weight
    except Exception as error:
        return type(error).__name__, isinstance(error, cp.ConstraintError), str(error)
    return "nothing", False, ""


def scenario_fsdp_retains_nothing_unsharded(rank):
    model, _ = build()
    shard(model, True)
    seen = []
    model[0].register_forward_pre_hook(lambda m, i: seen.append(weakref.ref(m.weight)))
    with torch.no_grad():
        model(mine(batches(0)[0], rank))
    return [ref() is None for ref in seen]


def main(rank, world, folder):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group(
        "gloo",
        rank=rank,
        world_size=world,
        init_method=f"file://{folder}/group",
        timeout=timedelta(seconds=20),
    )
    results = {}
    for name, scenario in list(globals().items()):
        if name.startswith("scenario_"):
            try:
                results[name.removeprefix("scenario_")] = scenario(rank)
            except Exception:
                results[name.removeprefix("scenario_")] = traceback.format_exc()
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
