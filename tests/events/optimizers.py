"""Section 1 of the rows: torch.optim, mixed precision, clipping."""

import torch
from torch import optim

from .event import Event, Table, X, loss_of

EVENTS = Table()
LOOP, FOREACH, FUSED = {"foreach": False}, {"foreach": True}, {"fused": True}
FAMILIES = ("SGD", "Adam", "AdamW", "Adagrad", "Adadelta", "Adamax", "ASGD", "NAdam", "RAdam",
            "RMSprop", "Rprop")  # fmt: skip
STEPS = {
    f"{name}({kind})": (name, options)
    for name in (*FAMILIES, "Adafactor")
    for kind, options in {"for-loop": LOOP, "foreach": FOREACH}.items()
}
STEPS |= {f"{name}(fused)": (name, FUSED) for name in ("SGD", "Adam", "AdamW", "Adagrad")}
STEPS |= {
    "Muon()": ("Muon", {}),
    "SGD(momentum, weight_decay, maximize)": (
        "SGD",
        {"momentum": 0.9, "weight_decay": 0.1, "maximize": True},
    ),
}
DIFFERENTIABLE = {f"{name}(differentiable, non-leaf tensor)": name for name in FAMILIES}


def make_optimizer(name, parameters, **options):
    return getattr(optim, name)(parameters, lr=0.01, **options)


def backward(layer):
    loss_of(layer.weight).backward()
    return layer.weight  # read between backward and step: the warm cache that the step must empty


def step(name, options):
    def act(layer):
        optimizer = make_optimizer(name, layer.parameters(), **options)
        backward(layer)
        optimizer.step()

    return act


for row, (name, options) in STEPS.items():
    EVENTS[row] = Event(row, step(name, options))


@EVENTS.row("SparseAdam(sparse grad)")
def sparse(layer):
    optimizer = optim.SparseAdam(layer.parameters(), lr=0.1)
    getattr(layer, X).grad = torch.eye(4).to_sparse()
    optimizer.step()


@EVENTS.row("LBFGS(strong_wolfe, closure re-evaluated inside step)")
def lbfgs(layer):
    optimizer = optim.LBFGS(layer.parameters(), lr=0.5, max_iter=5, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = loss_of(layer.weight)
        loss.backward()
        return loss

    optimizer.step(closure)


@EVENTS.row("SGD.step() with grad None (nothing to do)", changes=False, evaluations=0)
def without_gradient(layer):
    optim.SGD(layer.parameters(), lr=0.1).step()


@EVENTS.row("SGD.step() with zero grad (value unchanged)", changes=False)
def zero_gradient(layer):
    getattr(layer, X).grad = torch.zeros(4, 4)
    optim.SGD(layer.parameters(), lr=0.1).step()


def compiled(name, backend):
    def act(layer):
        optimizer = make_optimizer(name, layer.parameters())
        backward(layer)
        torch.compile(optimizer.step, backend=backend)()
        torch._dynamo.reset()

    return act


for name, backend in (("AdamW", "inductor"), ("AdamW", "aot_eager"), ("SGD", "inductor")):
    row = f"torch.compile({name}.step) {backend}"
    EVENTS[row] = Event(row, compiled(name, backend))


@EVENTS.row("optimizer-in-backward (post_accumulate_grad_hook -> step)")
def in_backward(layer):
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    hook = getattr(layer, X).register_post_accumulate_grad_hook(lambda _: optimizer.step())
    loss_of(layer.weight).backward()
    hook.remove()


@EVENTS.row("distributed.optim._apply_optimizer_in_backward")
def applied_in_backward(layer):
    from torch.distributed.optim import _apply_optimizer_in_backward
    from torch.distributed.optim.apply_optimizer_in_backward import param_to_optim_hook_handle_map

    _apply_optimizer_in_backward(optim.SGD, layer.parameters(), {"lr": 0.1})
    loss_of(layer.weight).backward()
    for handle in param_to_optim_hook_handle_map[getattr(layer, X)]:
        handle.remove()  # else each backward of the check is a step


def scaled(layer, factor, **options):
    optimizer = optim.SGD(layer.parameters(), lr=0.1, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(loss_of(layer.weight) * factor).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(layer.parameters(), 0.5)
    _ = layer.weight
    scaler.step(optimizer)
    scaler.update()


EVENTS.row("GradScaler: scale/unscale_/clip/step (finite grads)")(lambda m: scaled(m, 1.0))
EVENTS.row("GradScaler.step skipped (inf grads)", changes=False, evaluations=0)(
    lambda m: scaled(m, float("inf"))
)


@EVENTS.row("GradScaler.step with fused SGD (inf grads, found_inf path)", changes=False)
def found_inf(layer):
    """The fused step is called and does nothing; that it moved no version does not tell so."""
    optimizer = optim.SGD(layer.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(loss_of(layer.weight) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()


@EVENTS.row("clip_grad_norm_ / clip_grad_value_ (grad only)", changes=False, evaluations=0)
def clip(layer):
    loss_of(layer.weight).backward()
    torch.nn.utils.clip_grad_norm_(layer.parameters(), 0.1)
    torch.nn.utils.clip_grad_value_(layer.parameters(), 0.1)


@EVENTS.row("autocast forward+backward (grad only)", changes=False, evaluations=0)
def autocast(layer):
    with torch.autocast(torch.get_default_device().type, dtype=torch.bfloat16):
        layer(torch.rand(2, 4)).sum().backward()
    layer.zero_grad()
