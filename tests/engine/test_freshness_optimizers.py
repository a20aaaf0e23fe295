"""Every optimiser of torch, in every implementation, against the uncached model."""

import sys

import pytest
import torch
from torch import nn
from torch.optim import (
    ASGD,
    LBFGS,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Muon,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
    SparseAdam,
)
from torch.optim.optimizer import _default_to_fused_or_foreach

import constrainedparams as cp

from .oracle import assert_fresh, constrained_linear, counted_linear, equal, loss_of, skew_exp

LOOP, FOREACH, FUSED = {"foreach": False}, {"foreach": True}, {"fused": True}
ALL_WITH_FOREACH = (SGD, Adam, AdamW, Adagrad, Adadelta, Adamax, ASGD, NAdam, RAdam, RMSprop,
                    Rprop, Adafactor)  # fmt: skip

OPTIMIZERS = {
    f"{cls.__name__}_{name}": (cls, {"lr": 0.01, **options})
    for cls in ALL_WITH_FOREACH
    for name, options in {"default": {}, "loop": LOOP, "foreach": FOREACH}.items()
}
OPTIMIZERS |= {
    f"{cls.__name__}_fused": (cls, {"lr": 0.01, **FUSED}) for cls in (SGD, Adam, AdamW, Adagrad)
}
OPTIMIZERS |= {
    "Muon": (Muon, {"lr": 0.01}),
    "SGD_momentum_decay_maximize": (
        SGD,
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "maximize": True},
    ),
    "SGD_fused_momentum": (SGD, {"lr": 0.01, "momentum": 0.9, **FUSED}),
    "Adam_amsgrad": (Adam, {"lr": 0.01, "amsgrad": True}),
}


def naive_steps(cls, options, start, inputs, f=skew_exp):
    """x after each step of the model that evaluates f at every read."""
    x = nn.Parameter(start.detach().clone())
    optimizer = cls([x], **options)
    for batch in inputs:
        optimizer.zero_grad()
        ((batch @ f(x).t()).sin().sum() + loss_of(f(x))).backward()
        optimizer.step()
        yield x.detach().clone()


@pytest.mark.parametrize(("cls", "options"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizer(cls, options):
    layer = constrained_linear()
    inputs = torch.rand(3, 2, 4)
    optimizer = cls(layer.parameters(), **options)
    want = naive_steps(cls, options, layer._weight_unconstrained, inputs)
    for batch, x in zip(inputs, want, strict=True):
        optimizer.zero_grad()
        (layer(batch).sin().sum() + loss_of(layer.weight)).backward()
        # read between backward and step: the warm cache that the step must empty
        held = layer.weight.detach().clone()
        optimizer.step()
        equal(layer._weight_unconstrained, x)
        assert not torch.equal(layer.weight, held)
        assert_fresh(layer, skew_exp)


def test_an_optimizer_made_before_registration():
    layer = nn.Linear(4, 4, bias=False)
    optimizer = SGD(layer.parameters(), lr=0.1, momentum=0.9)
    before = layer.weight
    cp.register_constrained_parameter(layer, "weight", skew_exp)
    assert layer._weight_unconstrained is before
    for _ in range(2):
        old = layer.weight.detach().clone()
        layer(torch.rand(2, 4)).square().sum().backward()
        optimizer.step()
        assert not torch.equal(layer.weight, old)
        assert_fresh(layer, skew_exp)


def test_step_without_gradient_and_with_zero_gradient():
    layer = constrained_linear()
    optimizer = SGD(layer.parameters(), lr=0.1)
    kept = layer.weight.detach().clone()
    optimizer.step()
    equal(layer.weight, kept)
    layer._weight_unconstrained.grad = torch.zeros(4, 4)
    optimizer.step()
    equal(layer.weight, kept)
    assert_fresh(layer, skew_exp)


def test_lbfgs_with_line_search():
    layer = constrained_linear()
    optimizer = LBFGS(layer.parameters(), lr=0.5, max_iter=5, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = loss_of(layer.weight)
        assert_fresh(layer, skew_exp)
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
        assert_fresh(layer, skew_exp)


def test_sparse_adam():
    layer = constrained_linear()
    optimizer = SparseAdam([layer._weight_unconstrained], lr=0.1)
    _ = layer.weight
    layer._weight_unconstrained.grad = torch.eye(4).to_sparse()
    optimizer.step()
    assert_fresh(layer, skew_exp)


def test_compiled_step():
    layer = constrained_linear()
    inputs = torch.rand(2, 2, 4)
    want = list(naive_steps(AdamW, {"lr": 0.01}, layer._weight_unconstrained, inputs))
    optimizer = AdamW(layer.parameters(), lr=0.01)

    @torch.compile(backend="aot_eager")
    def step():
        optimizer.step()

    for batch, x in zip(inputs, want, strict=True):
        optimizer.zero_grad()
        (layer(batch).sin().sum() + loss_of(layer.weight)).backward()
        _ = layer.weight
        step()
        equal(layer._weight_unconstrained, x)
        assert_fresh(layer, skew_exp)
    torch._dynamo.reset()


def test_optimizer_in_backward():
    layer = constrained_linear()
    inputs = torch.rand(3, 2, 4)
    want = naive_steps(SGD, {"lr": 0.1}, layer._weight_unconstrained, inputs)
    optimizer = SGD(layer.parameters(), lr=0.1)

    def step(parameter):
        optimizer.step()
        optimizer.zero_grad()

    layer._weight_unconstrained.register_post_accumulate_grad_hook(step)
    for batch, x in zip(inputs, want, strict=True):
        (layer(batch).sin().sum() + loss_of(layer.weight)).backward()
        equal(layer._weight_unconstrained, x)
        assert_fresh(layer, skew_exp)


def test_apply_optimizer_in_backward():
    from torch.distributed.optim import _apply_optimizer_in_backward

    layer = constrained_linear()
    inputs = torch.rand(3, 2, 4)
    want = naive_steps(SGD, {"lr": 0.1}, layer._weight_unconstrained, inputs)
    _apply_optimizer_in_backward(SGD, layer.parameters(), {"lr": 0.1})
    for batch, x in zip(inputs, want, strict=True):
        (layer(batch).sin().sum() + loss_of(layer.weight)).backward()
        equal(layer._weight_unconstrained, x)
        assert_fresh(layer, skew_exp)


@pytest.mark.parametrize("options", [{}, LOOP, FUSED], ids=["default", "loop", "fused"])
def test_grad_scaler(options):
    layer = constrained_linear().float()
    reference = nn.Parameter(layer._weight_unconstrained.detach().clone())
    models = []
    for parameter, read in (
        (layer._weight_unconstrained, lambda: layer.weight),
        (reference, lambda: skew_exp(reference)),
    ):
        optimizer = SGD([parameter], lr=0.05, momentum=0.9, **options)
        models.append((parameter, read, optimizer, torch.amp.GradScaler("cpu", init_scale=8.0)))
    for step in range(4):
        for parameter, read, optimizer, scaler in models:
            optimizer.zero_grad()
            loss = loss_of(read()) * (float("inf") if step == 2 else 1.0)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_value_([parameter], 0.5)
            _ = read()
            scaler.step(optimizer)
            scaler.update()
        equal(layer._weight_unconstrained, reference, rtol=1e-6, atol=1e-7)
        assert_fresh(layer, skew_exp, rtol=1e-5, atol=1e-6)


def test_a_late_backward_after_a_fused_step_raises():
    """Plain torch gives a wrong gradient here, without an error: fused leaves versions alone."""
    layer = constrained_linear(lambda x: x * x * x)
    optimizer = SGD(layer.parameters(), lr=0.1, fused=True)
    late = loss_of(layer.weight)
    loss_of(layer.weight).backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()


def test_several_optimizers_over_one_parameter():
    layer, counting = counted_linear(skew_exp)
    first = SGD(layer.parameters(), lr=0.1, fused=True)
    second = Adam(layer.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        for optimizer in (first, second):
            counting.reset()
            loss_of(layer.weight).backward()
            optimizer.step()
            layer.zero_grad()
            assert counting.counts == (1, 1)
    assert_fresh(layer, skew_exp)


def test_the_default_implementation_stays_foreach(monkeypatch):
    """Optimisers take the fast path for types they know: the guarded x must pass as one."""
    layer = constrained_linear()
    x = layer._weight_unconstrained
    _ = layer.weight
    plain = nn.Parameter(torch.rand(4, 4))
    assert isinstance(x, nn.Parameter)
    for kind in ("foreach", "fused"):
        name = f"_get_{kind}_kernels_supported_devices"
        monkeypatch.setattr(sys.modules["torch.optim.optimizer"], name, lambda: [x.device.type])
    for use_fused in (False, True):
        want = _default_to_fused_or_foreach([plain], False, use_fused)
        assert want != (False, False)
        assert _default_to_fused_or_foreach([x], False, use_fused) == want
        assert _default_to_fused_or_foreach([x, plain], False, use_fused) == want


def test_clipping_and_norms_take_the_guarded_parameter():
    layer = constrained_linear()
    loss_of(layer.weight).backward()
    x = layer._weight_unconstrained
    norm = x.grad.norm()
    equal(torch.nn.utils.clip_grad_norm_(layer.parameters(), 0.1, foreach=True), norm)
    equal(x.grad.norm(), torch.tensor(0.1), rtol=1e-4, atol=1e-6)
    equal(torch.nn.utils.get_total_norm([x]), x.detach().norm())
