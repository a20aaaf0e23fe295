"""An event: a warm cache, something happens to x, the next read equals the naive model."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.testing import assert_close

import constrainedparams as cp

X = "_weight_unconstrained"
CLOSE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-13},
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.bfloat16: {"rtol": 2e-2, "atol": 1e-2},
}


@dataclass(frozen=True)
class Event:
    """One row of ``rows.txt``.

    ``act(layer)`` is what happens; where it is a generator, what stands before its ``yield`` happens
    before the cache is warmed. Where it returns a module, that one is looked at.
    """

    name: str
    act: Callable[[Any], Any]
    changes: bool | None = True  # the values of x; None: not known beforehand
    evaluations: int = 1  # of f, at the read after it
    tell: str = ""  # what to call, where no signal of torch reveals the event
    make: Callable[..., nn.Module] | None = None  # another layer than ``make`` gives

    @property
    def silent(self) -> bool:
        """Whether f does not run again though it should: somebody has to tell."""
        return self.changes is not False and self.evaluations == 0

    @property
    def spurious(self) -> bool:
        """Whether f runs again though it need not."""
        return self.changes is False and self.evaluations > 0


class Table(dict):
    """Events by name, entered by decorated functions."""

    def row(self, name: str, **facts: Any) -> Callable[[Any], Any]:
        def enter(act: Any) -> Any:
            assert name not in self, name
            self[name] = Event(name, act, **facts)
            return act

        return enter


class Runs:
    """How often f ran: a counter that all copies of f share."""

    count = 0


def f(x):
    """(*s) -> (*s): every entry depends on every other of its row; the derivative is nowhere constant."""
    Runs.count += 1
    return torch.tanh(x) + 0.1 * torch.exp(x) * x.mean(-1, keepdim=True)


def make(function=f, **options):
    """A Linear(4, 4) whose weight is f(x)."""
    layer = nn.Linear(4, 4, bias=False)
    return cp.register_constrained_parameter(layer, "weight", function, **options)


def loss_of(y):
    """A number that depends on every entry of y differently and on none linearly."""
    ramp = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)
    return (y * (y + ramp)).sin().sum()


def warm(layer):
    """Fill the cache as a training step does: reads, a backward, a read without grad."""
    if layer.weight.requires_grad:
        loss_of(layer.weight).backward()
        layer.zero_grad()
    with torch.no_grad():
        _ = layer.weight


def naive(layer):
    """y of the model that evaluates f at every read, in at least float32."""
    x = getattr(layer, X)
    wide = x.float() if x.dtype == torch.bfloat16 else x
    return cp.constraint_of(layer, "weight")(wide).to(x.dtype)


def assert_naive(layer):
    """Value and gradient of ``layer.weight`` are those of the naive model on the x that is there."""
    close = CLOSE[getattr(layer, X).dtype]
    want = naive(layer)
    assert_close(layer.weight.detach().clone(), want.detach(), **close)
    with torch.no_grad():
        assert_close(layer.weight.clone(), want.detach(), **close)
    assert layer.weight.requires_grad is want.requires_grad
    if want.requires_grad:
        leaves = list(layer.parameters())
        gradients = [
            torch.autograd.grad(loss_of(y), leaves, retain_graph=True) for y in (layer.weight, want)
        ]
        for got, expected in zip(*gradients, strict=True):
            assert_close(got, expected, **close)


def happen(event, layer):
    """Warm the cache, let it happen; the module to look at, and x before."""
    if inspect.isgeneratorfunction(event.act):
        steps = event.act(layer)
        next(steps)
        warm(layer)
        before = getattr(layer, X).detach().clone()
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value or layer, before
        raise AssertionError("an event yields once")
    warm(layer)
    before = getattr(layer, X).detach().clone()
    seen = event.act(layer)
    return seen if isinstance(seen, nn.Module) else layer, before


def evaluations(layer):
    """How often f runs when ``layer.weight`` is read and differentiated."""
    Runs.count = 0
    y = layer.weight
    if y.requires_grad:
        loss_of(y).backward(retain_graph=True)  # for those who make x from something else
        layer.zero_grad()
    return Runs.count


def changed(layer, before):
    now = getattr(layer, X).detach()
    return not torch.equal(now.to(before.dtype), before) or now.shape != before.shape


def assert_event(event, **options):
    """What a row says of its event is so, and the next ordinary write is noticed as well."""
    layer, before = happen(event, (event.make or make)(**options))
    if event.changes is not None:
        assert changed(layer, before) is event.changes
    assert evaluations(layer) == event.evaluations
    if event.silent:
        return
    assert_naive(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1)
    assert_naive(layer)


def assert_told(event):
    """Where no signal of torch reveals an event, one call makes it right."""
    layer, before = happen(event, (event.make or make)())
    assert event.changes is None or changed(layer, before)
    exec(event.tell, {"layer": layer})
    assert_naive(layer)


def assert_verified(event):
    """... and so does ``update="verified"`` without one."""
    layer, before = happen(event, (event.make or make)(update="verified"))
    assert event.changes is None or changed(layer, before)
    assert evaluations(layer) == 1
    assert_naive(layer)
