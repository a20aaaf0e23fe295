"""A constrained network and the naive one beside it, which runs f inline, by hand, at every use."""

import torch
from torch import nn
from torch.nn import functional as F

import constrainedparams as cp

N = 3
LAYERS = ("a", "b", "c")
ALL = (*LAYERS, "d")  # d is constrained for a while


def bend(x):
    """The plain callable: no right inverse."""
    return torch.tanh(x) + 0.1 * torch.exp(x)


class Softened(nn.Module):
    """The nn.Module: a parameter, a buffer, another value in eval, a right inverse."""

    def __init__(self):
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(0.7))
        self.register_buffer("shift", torch.tensor(0.1))

    def forward(self, x):
        gain = 1.0 if self.training else 0.5
        return gain * torch.tanh(self.sharpness * x) / self.sharpness + self.shift

    def right_inverse(self, y):
        gain = 1.0 if self.training else 0.5
        return torch.atanh(self.sharpness * (y - self.shift) / gain) / self.sharpness


def exponential(S):
    """By its series: the derivative of torch.matrix_exp is wrong by 1e-10 at some float64 points."""
    term = total = torch.eye(N, dtype=S.dtype)
    for k in range(1, 15):
        term = term @ S / (32 * k)
        total = total + term
    for _ in range(5):
        total = total @ total
    return total


class Inline(nn.Module):
    """A linear layer that evaluates f at each access of its weight."""

    def __init__(self, x, bias):
        super().__init__()
        self.x = nn.Parameter(x.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())

    @property
    def weight(self):
        return self.f(self.x)

    def forward(self, z):
        return F.linear(z, self.weight, self.bias)

    def f(self, x):
        return x


class InlineOrthogonal(Inline):
    """base exp(S) with S the skew matrix of x's lower triangle; g(y) is x = 0 at base = y."""

    def __init__(self, x, bias, base):
        super().__init__(x, bias)
        self.register_buffer("base", base.detach().clone())

    def f(self, x):
        lower = x.tril(-1)
        return self.base @ exponential(lower - lower.mT)

    @torch.no_grad()
    def put(self, y):
        self.x.zero_()
        self.base.copy_(y)


class InlineBend(Inline):
    def f(self, x):
        return bend(x)


class InlineNow(Inline):
    """A plain layer, and one with f = bend while it is ``on``."""

    on = False

    def f(self, x):
        return bend(x) if self.on else x


class InlineSoftened(Inline):
    def __init__(self, x, bias, sharpness, shift):
        super().__init__(x, bias)
        self.sharpness = nn.Parameter(sharpness.detach().clone())
        self.register_buffer("shift", shift.detach().clone())

    @property
    def gain(self):
        return 1.0 if self.training else 0.5

    def f(self, x):
        return self.gain * torch.tanh(self.sharpness * x) / self.sharpness + self.shift

    @torch.no_grad()
    def put(self, y):
        slope = self.sharpness * (y - self.shift) / self.gain
        self.x.copy_(torch.log((1 + slope) / (1 - slope)) / (2 * self.sharpness))


class Network(nn.Module):
    """Layer a is used twice, the weight of b once more by name; d may be tied to b."""

    def __init__(self, a, b, c, d):
        super().__init__()
        self.a, self.b, self.c, self.d = a, b, c, d

    def forward(self, z):
        z = torch.tanh(self.a(torch.tanh(self.a(z))))
        return self.d(self.c(self.b(z) + z @ self.b.weight))


class NaiveNetwork(Network):
    """``tied``: the weight of d is the one of b."""

    tied = False

    def forward(self, z):
        if not self.tied:
            return super().forward(z)
        z = torch.tanh(self.a(torch.tanh(self.a(z))))
        return F.linear(self.c(self.b(z) + z @ self.b.weight), self.b.weight, self.d.bias)


def constrained():
    """The network under test: a set with map state, a function, a module, and a plain layer."""
    net = Network(*(nn.Linear(N, N) for _ in range(4))).double()
    cp.register_constrained_parameter(net.a, "weight", cp.Orthogonal())
    cp.register_constrained_parameter(net.b, "weight", bend)
    with torch.no_grad():
        net.c.weight.mul_(0.5)
    cp.register_constrained_parameter(net.c, "weight", Softened().double())
    return net


def raw(layer):
    """x of a constrained layer."""
    return layer._weight_unconstrained


def naive(net):
    """The naive network at the same point."""
    a, b, c, d = net.a, net.b, net.c, net.d
    f = c._weight_function
    return NaiveNetwork(
        InlineOrthogonal(raw(a), a.bias, a._weight_base),
        InlineBend(raw(b), b.bias),
        InlineSoftened(raw(c), c.bias, f.sharpness, f.shift),
        InlineNow(d.weight, d.bias),
    )


def pairs(net, plain):
    """(name, tensor of the network, tensor of the naive one), parameters first."""
    found = [(f"{k}.x", raw(getattr(net, k)), getattr(plain, k).x) for k in LAYERS]
    found += [(f"{k}.bias", getattr(net, k).bias, getattr(plain, k).bias) for k in (*LAYERS, "d")]
    found.append(("c.sharpness", net.c._weight_function.sharpness, plain.c.sharpness))
    if not plain.tied:
        found.append(("d.x", raw(net.d) if plain.d.on else net.d.weight, plain.d.x))
    return found


def buffers(net, plain):
    return [
        ("a.base", net.a._weight_base, plain.a.base),
        ("c.shift", net.c._weight_function.shift, plain.c.shift),
    ]


def noise(seed, *shape, size=0.3):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(*(shape or (N, N)), dtype=torch.float64, generator=generator)


def rotation(seed, like):
    """An orthogonal matrix in the component of ``like``."""
    lower = noise(seed, size=1.0).tril(-1)
    # the polar factor takes off the rounding that one rotation after the other has added up
    left, _, right = torch.linalg.svd(torch.matrix_exp(lower - lower.mT) @ like.detach().clone())
    return left @ right


def ramp(y):
    """A number that depends on every entry of y differently and on none linearly."""
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)
    return (y * (y + weights)).sin().sum()


def tilt(g):
    """A number linear in every entry of g, which may be large: its derivative does not lose digits."""
    weights = torch.linspace(0.5, 1.5, g.numel(), dtype=g.dtype).reshape(g.shape)
    return (g * weights).sum()
