"""The oracle: f evaluated inline at every read, functions that count themselves, comparisons."""

import re

import torch
from torch import nn
from torch.testing import assert_close

import constrainedparams as cp

TOLERANCE = {"rtol": 1e-12, "atol": 1e-13}


# Functions -----------------------------------------------------------------------------------
def skew_exp(x):
    """(n, n) -> (n, n): the exponential of a skew-symmetric matrix, which is orthogonal."""
    aux = x.triu(diagonal=1)
    aux = aux - aux.t()
    return torch.matrix_exp(aux)


def tanh_exp(x):
    """(*s) -> (*s): any shape, derivative nowhere constant."""
    return torch.tanh(x) + 0.1 * torch.exp(x)


class Symmetric:
    """(n, n) -> (n, n), a plain object with right inverse; off the set f(g(y)) != y."""

    def __call__(self, x):
        return x.triu() + x.triu(1).transpose(-2, -1)

    def right_inverse(self, y):
        return y.triu()


class PackedSymmetric:
    """(n (n + 1) / 2,) -> (n, n): x has another shape than y."""

    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        row, column = torch.triu_indices(self.n, self.n)
        upper = x.new_zeros(self.n, self.n).index_put((row, column), x)
        return upper + upper.triu(1).transpose(-2, -1)

    def right_inverse(self, y):
        row, column = torch.triu_indices(self.n, self.n)
        return y[row, column]


class Softened(nn.Module):
    """(*s) -> (*s): a function with a parameter of its own."""

    def __init__(self, sharpness=1.5):
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(sharpness))

    def forward(self, x):
        return torch.tanh(self.sharpness * x) / self.sharpness


class _CountDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, counting):
        ctx.counting = counting
        return y.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.counting.derivatives += 1
        return grad.clone(), None


class Counting:
    """f that counts how often it runs, and how often its derivative does."""

    def __init__(self, f=tanh_exp):
        self.f, self.evaluations, self.derivatives = f, 0, 0

    def __call__(self, x):
        self.evaluations += 1
        return _CountDerivative.apply(self.f(x), self)

    @property
    def counts(self):
        return self.evaluations, self.derivatives

    def reset(self):
        self.evaluations = self.derivatives = 0


# Modules -------------------------------------------------------------------------------------
def constrained_linear(f=skew_exp, n=4, *, bias=False, **options):
    """A Linear(n, n) with a weight that is f(x), and x drawn small enough for every f here."""
    layer = nn.Linear(n, n, bias=bias)
    return cp.register_constrained_parameter(layer, "weight", f, **options)


def counted_linear(f=tanh_exp, n=4, **options):
    """The layer and its counting f, both stale and at zero: the next read is the first one."""
    counting = Counting(f)
    layer = constrained_linear(counting, n, **options)
    change(layer._weight_unconstrained)
    cp.updated(layer, "weight")
    counting.reset()
    return layer, counting


def change(x, seed=7):
    """Write into x in the most ordinary way."""
    draw = torch.Generator(x.device).manual_seed(seed)
    with torch.no_grad():
        x.add_(0.1 * torch.randn(x.shape, device=x.device, generator=draw))


# Comparisons ---------------------------------------------------------------------------------
def loss_of(y):
    """A number that depends on every entry of y differently and on none linearly."""
    if y.is_complex():
        y = torch.view_as_real(y)
    ramp = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape)
    return (y * (y + ramp)).sin().sum()


def equal(got, want, **tolerance):
    """Compare values only: y is a tensor subclass, and may require grad."""
    assert_close(got.detach().clone(), want.detach().clone(), **(tolerance or TOLERANCE))


def naive(f, x):
    """(value, gradient) of the uncached model at x."""
    x = x.detach().clone().requires_grad_()
    y = f(x)
    (grad,) = torch.autograd.grad(loss_of(y), x)
    return y.detach(), grad


def assert_fresh(module, f, name="weight", **tolerance):
    """Value and gradient are those of f evaluated inline on the x that is there."""
    x = getattr(module, f"_{name}_unconstrained")
    value, grad = naive(f, x)
    equal(getattr(module, name), value, **tolerance)
    if x.requires_grad:
        (got,) = torch.autograd.grad(loss_of(getattr(module, name)), x)
        equal(got, grad, **tolerance)
    else:
        assert not getattr(module, name).requires_grad
    with torch.no_grad():
        equal(getattr(module, name), value, **tolerance)
    with torch.inference_mode():
        equal(getattr(module, name).clone(), value, **tolerance)


def warm(module, name="weight"):
    """Fill the cache as a training step does: reads, a backward, a read without grad."""
    y = getattr(module, name)
    if y.requires_grad:
        loss_of(y).backward()
        module.zero_grad()
    with torch.no_grad():
        getattr(module, name)
    return y


def numbers(message):
    """Every number written in a message."""
    return [float(n) for n in re.findall(r"-?\d+\.?\d*(?:[eE][-+]?\d+)?", str(message))]


def fingerprint(module):
    """All that an unsuccessful call must leave as it was."""
    return {
        "class": [type(m) for m in module.modules()],
        "dict": [list(vars(m)) for m in module.modules()],
        "parameters": [
            (n, id(p), p.requires_grad, None if nn.parameter.is_lazy(p) else p.shape)
            for n, p in module.named_parameters()
        ],
        "buffers": [(n, id(b)) for n, b in module.named_buffers()],
        "modules": [(n, id(m)) for n, m in module.named_modules()],
        "state": [(n, v.clone() if not v.is_meta else None) for n, v in module.state_dict().items()]
        if not any(nn.parameter.is_lazy(p) for p in module.parameters())
        else [],
    }


def assert_untouched(module, before):
    after = fingerprint(module)
    for key in ("class", "dict", "parameters", "buffers", "modules"):
        assert after[key] == before[key], key
    assert [n for n, _ in after["state"]] == [n for n, _ in before["state"]]
    for (name, now), (_, then) in zip(after["state"], before["state"], strict=True):
        assert now is None or torch.equal(now, then), name
