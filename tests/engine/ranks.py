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


def build(seed=0, update="auto"):
    """(model, the two counting functions), the same on every rank for the same seed."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(N, N), nn.Tanh(), nn.Linear(N, N))
    functions = Counted(skew_exp), Counted(f_last)
    for layer, f in zip((model[0], model[2]), functions, strict=True):
        cp.register_constrained_parameter(layer, "weight", f, update=update)
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


def batched_history(rank, wrap, rows=mine):
    """Four layers in one batch: the parameters after each step, and evaluations of each f."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(N, N) for _ in range(4)))
    cp.register_constrained_parameters(model, {"*.weight": cp.Orthogonal()})
    wrapped = wrap(cp.batch(model))
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    history = []
    for step in range(STEPS):
        optimizer.zero_grad()
        wrapped(rows(batches(step)[0], rank)).sin().square().mean().backward()
        optimizer.step()
        ran = [counts.evaluations for counts in cp.statistics(model).values()]
        history.append((state(model), ran))
    return history


def scenario_batched(rank):
    """Under DDP, FSDP2 layer by layer and as a whole, and in one process."""

    def sharded(model, parts):
        for part in parts:
            fully_shard(part, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        return model

    return {
        "ddp": batched_history(rank, DistributedDataParallel),
        "fsdp, by layer": batched_history(rank, lambda m: sharded(m, [*m, m])),
        "fsdp": batched_history(rank, lambda m: sharded(m, [m])),
        "one process": batched_history(rank, lambda m: m, lambda batch, _: batch),
    }


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


def scenario_fsdp_refuses_what_comes_after(rank):
    """Registering and removing once FSDP2 holds the parameters."""
    model, _ = build()
    shard(model, True)
    messages = []
    for late in (
        lambda: cp.register_constrained_parameter(model[0], "bias", torch.tanh),
        lambda: cp.remove_constrained_parameter(model[0], "weight"),
        lambda: cp.register_constrained_parameters(model, {"0.bias": torch.tanh}),
    ):
        try:
            late()
            messages.append("nothing")
        except cp.ConstraintError as error:
            messages.append(str(error))
    history = train(model, [Counted(skew_exp)] * 2, rank)  # as it was
    return messages, len(history)


def scenario_fsdp_retains_nothing_unsharded(rank):
    model, _ = build()
    shard(model, True)
    seen = []
    model[0].register_forward_pre_hook(lambda m, i: seen.append(weakref.ref(m.weight)))
    with torch.no_grad():
        model(mine(batches(0)[0], rank))
    return [ref() is None for ref in seen]


def equal_pairs(layer):
    """(y, f(x)) and (gradient through y, gradient through f inline)."""
    x = layer._weight_unconstrained
    inline = x.detach().clone().requires_grad_()
    (got,) = torch.autograd.grad(layer.weight.sin().sum(), x)
    (want,) = torch.autograd.grad(skew_exp(inline).sin().sum(), inline)
    return [(plain(layer.weight), plain(skew_exp(x))), (got, want)]


def received(p):
    if dist.get_rank() == 0:
        dist.send(torch.ones(N, N), 1)
    else:
        dist.recv(p, 0)


# names as in tests/events/rows.txt; on rank 1 each of them changes x
COLLECTIVES = {
    "dist.broadcast(p.detach(), 0)  (rank 1)": lambda p: dist.broadcast(p.detach(), 0),
    "dist.broadcast(p.data, 0)": lambda p: dist.broadcast(p.data, 0),
    "dist.all_reduce(p.data)": lambda p: dist.all_reduce(p.data),
    "dist.broadcast(p, 0) under no_grad": lambda p: dist.broadcast(p, 0),
    "dist.all_reduce(p) under no_grad": lambda p: dist.all_reduce(p),
    "dist.recv(p) under no_grad": received,
    "dist.broadcast(p.detach(), async_op=True); wait()": lambda p: dist.broadcast(
        p.detach(), 0, async_op=True
    ).wait(),
}


def scenario_collectives(rank):
    """Row: (did x change, evaluations of f at the next read, right when told, right when verified)."""
    out = {}
    for row, collective in COLLECTIVES.items():
        found = []
        for mode in ("auto", "verified"):
            torch.manual_seed(rank)
            f = Counted(skew_exp)
            layer = nn.Linear(N, N)
            cp.register_constrained_parameter(layer, "weight", f, update=mode)
            _ = layer.weight
            ran, before = f.evaluations, plain(layer._weight_unconstrained)
            with torch.no_grad():
                collective(layer._weight_unconstrained)
            if mode == "auto":
                found.append(not torch.equal(layer._weight_unconstrained, before))
                _ = layer.weight
                found.append(f.evaluations - ran)
                layer.weight.updated()
            found.append(equal_pairs(layer))
        out[row] = found
    return out


def adamw_step(model, p):
    torch.optim.AdamW(model.parameters(), lr=0.1).step()


@torch.no_grad()
def local_add(model, p):
    p.to_local().detach().add_(0.1)


@torch.no_grad()
def local_tensor_add(model, p):
    p._local_tensor.add_(0.1)


DTENSORS = {
    "DTensor parameter: AdamW.step": adamw_step,
    "DTensor parameter: p.to_local().detach().add_()": local_add,
    "DTensor parameter: p._local_tensor.add_()": local_tensor_add,
}


def inline(model, inputs):
    """(output, gradient of the first x) of f on the whole tensors that the shards make up."""
    full = {n: plain(q).requires_grad_() for n, q in model.named_parameters()}
    weight = skew_exp(full["0._weight_unconstrained"])
    h = torch.tanh(nn.functional.linear(inputs, weight, full["0.bias"]))
    out = nn.functional.linear(h, f_last(full["2._weight_unconstrained"]), full["2.bias"])
    out.sin().sum().backward()
    return plain(out), full["0._weight_unconstrained"].grad


def scenario_dtensors(rank):
    """Row: [(did x change, [(output, f inline), (gradient, f inline)])] untold, told, verified."""
    out = {row: [] for row in DTENSORS}
    inputs = batches(0)[0]
    for row, write in DTENSORS.items():
        for how in ("untold", "told", "verified"):
            model, _ = build(update="verified" if how == "verified" else "auto")
            model = shard(model, True)
            p = model[0]._weight_unconstrained
            model(inputs).sin().sum().backward()
            before = plain(p)
            write(model, p)
            if how == "told":
                cp.updated(model)
            model.zero_grad()
            y = model(inputs)
            y.sin().sum().backward()
            got = plain(y), plain(p.grad)
            pairs = list(zip(got, inline(model, inputs), strict=True))
            out[row].append((not torch.equal(plain(p), before), pairs))
    return out


def scenario_fsdp1(rank):
    """The older wrapper keeps the original parameters as views of one flat tensor."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    model, functions = build()
    wrapped = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    history = train(wrapped, functions, rank)
    with FullyShardedDataParallel.summon_full_params(wrapped):
        full = {n.removeprefix("_fsdp_wrapped_module."): p for n, p in state(wrapped).items()}
    return full, [ran for _, ran in history]


def main(rank, world, folder):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group(
        "gloo",
        rank=rank,
        world_size=world,
        init_method=f"file://{folder}/group",
        timeout=timedelta(seconds=60),
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
