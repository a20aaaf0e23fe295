"""The naive network against 60 digits, and what L-BFGS makes of two networks that are both right.

The third network, here, shares no code with the other two: mpmath's functions, and differences of
the loss for gradients.
"""

import mpmath
import pytest
import torch

import constrainedparams as cp

from . import pair
from .pair import noise, ramp

EPS = torch.finfo(torch.float64).eps


def digits(t):
    rows = t.detach().reshape(-1, t.shape[-1] if t.ndim else 1).tolist()
    return mpmath.matrix([[mpmath.mpf(v) for v in row] for row in rows])


def bend(v):
    return mpmath.tanh(v) + mpmath.mpf(0.1) * mpmath.exp(v)


def loss(at, z):
    """Of the network with the numbers of ``at``, d constrained."""
    s, shift = at["c.sharpness"][0], at["c.shift"][0]
    skew = mpmath.matrix(pair.N, pair.N)
    for i in range(pair.N):
        for j in range(i):
            skew[i, j], skew[j, i] = at["a.x"][i, j], -at["a.x"][i, j]
    weights = {
        "a": at["a.base"] * mpmath.expm(skew, method="taylor"),
        "b": at["b.x"].apply(bend),
        "c": at["c.x"].apply(lambda v: mpmath.tanh(s * v) / s + shift),
        "d": at["d.x"].apply(bend),
    }

    def layer(k, z):
        return z * weights[k].T + mpmath.matrix([list(at[f"{k}.bias"])] * z.rows)

    for _ in range(2):
        z = layer("a", z).apply(mpmath.tanh)
    out = layer("d", layer("c", layer("b", z) + z * weights["b"]))
    ramps = digits(torch.linspace(0.5, 1.5, out.rows * out.cols, dtype=torch.float64))
    return sum(mpmath.sin(y * (y + r)) for y, r in zip(out, ramps, strict=True))


def slopes(function, entries):
    """The derivative of ``function()`` with respect to each entry of a matrix that it reads."""
    step, found = mpmath.mpf(10) ** -25, []
    for i in range(entries.rows):
        for j in range(entries.cols):
            v, ends = entries[i, j], []
            for side in (step, -step):
                entries[i, j] = v + side
                ends.append(function())
            entries[i, j] = v
            found.append(float((ends[0] - ends[1]) / (2 * step)))
    return torch.tensor(found, dtype=torch.float64)


@mpmath.workdps(60)
def exact_gradient(plain, z, move=0.0):
    """Of the loss where ``plain`` is, or with all of d.x ``move`` beside it."""
    at = {k: digits(v) for k, v in (*plain.named_parameters(), *plain.named_buffers())}
    at["d.x"] = at["d.x"].apply(lambda v: v + mpmath.mpf(move))
    z = digits(z)
    return {k: slopes(lambda: loss(at, z), at[k]) for k, _ in plain.named_parameters()}


def networks(start, size=None):
    """The network and the naive one, all constrained, with x of entries of about ``size``."""
    torch.manual_seed(start)
    net = pair.constrained()
    plain = pair.naive(net)
    cp.register_constrained_parameter(net.d, "weight", pair.bend)
    plain.d.on = True
    with torch.no_grad():
        for number, k in enumerate(pair.ALL if size else ()):
            for x in (pair.raw(getattr(net, k)), getattr(plain, k).x):
                x.copy_(noise(number, size=size))
    return net, plain


def gradients(net, plain):
    """Of both networks, by name."""
    found = pair.pairs(net, plain)
    return {k: x.grad for k, x, _ in found}, {k: p.grad for k, _, p in found}


def gap(got, want):
    """The largest difference, of each tensor relative to its largest entry."""
    return max(float((got[k].reshape(-1) - g).abs().max() / g.abs().max()) for k, g in want.items())


@pytest.mark.parametrize("norm", [0.1, 1.0, 10.0])
def test_the_naive_exponential_is_right_to_rounding(norm):
    S = noise(3) - noise(3).mT
    S = (norm * S / torch.linalg.matrix_norm(S, 2)).requires_grad_()
    pair.tilt(pair.exponential(S)).backward()
    with mpmath.workdps(60):
        entries, tilts = digits(S), torch.linspace(0.5, 1.5, pair.N**2, dtype=torch.float64)

        def tilted():
            value = mpmath.expm(entries, method="taylor")
            return sum(v * t for v, t in zip(value, digits(tilts), strict=True))

        assert gap({"S": S.grad}, {"S": slopes(tilted, entries)}) < 1e-14


@pytest.mark.parametrize("size", [0.3, 1.0])
def test_both_gradients_are_right_to_rounding(size):
    net, plain = networks(0, size)
    z = noise(1, 2, pair.N, size=1.0)
    for either in (net, plain):
        ramp(either(z)).backward()
    want = exact_gradient(plain, z)
    for got in gradients(net, plain):
        assert gap(got, want) < 1e-12


def descend(net, parameters, z):
    """L-BFGS that nothing bounds; the cosine of its first step and the gradient's change in it."""
    optimiser, seen = torch.optim.LBFGS(parameters, lr=0.02, max_iter=3), []

    def closure():
        optimiser.zero_grad()
        value = ramp(net(z))
        value.backward()
        seen.append([torch.cat([t.detach().flatten() for t in parameters])])
        seen[-1].append(torch.cat([t.grad.flatten() for t in parameters]))
        return value

    optimiser.step(closure)
    (x0, g0), (x1, g1), *_ = seen
    return float(torch.cosine_similarity(x1 - x0, g1 - g0, dim=0))


def test_unbounded_lbfgs_goes_where_rounding_decides_on_gradients():
    """The step is divided by a curvature next to nothing: the networks are far off, and apart."""
    net, plain = networks(104)
    z = noise(22, 2, pair.N, size=1.0)
    found = pair.pairs(net, plain)
    assert 0 < descend(net, [x for _, x, _ in found], z) < 1e-3
    assert 0 < descend(plain, [p for _, _, p in found], z) < 1e-3
    assert max(float(x.detach().abs().max()) for _, x, _ in found) > 10
    assert max(float((x - p).detach().abs().max()) for _, x, p in found) < 1e-7

    outputs = float(plain(z).detach().abs().max())
    known = 1000 * EPS * outputs**2  # the loss has sines of squares of outputs
    assert known > 1e-6
    got, want = gradients(net, plain), exact_gradient(plain, z)
    assert gap(got[1], want) < known
    assert gap(exact_gradient(plain, z, move=1e-9), want) > 1  # moved as far as they are apart
    with torch.no_grad():
        for _, x, p in found:
            p.copy_(x)
    assert gap(got[0], exact_gradient(plain, z)) < known
