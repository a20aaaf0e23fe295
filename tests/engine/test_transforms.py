"""Every transform of torch.func on every kind of f, with caches cold, warm, and read inside of it.

The oracle is the same transform of f written out by hand with operations of torch alone.
"""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    stack_module_state,
    vjp,
    vmap,
)

import constrainedparams as cp

from .oracle import equal, tanh_exp, warm

# torch's own, of the graph that linearize makes
pytestmark = pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")

X = "_weight_unconstrained"
LOOSE = {"rtol": 1e-8, "atol": 1e-8}


class Bent(nn.Module):
    """Two parameters and another module inside."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.8))
        self.inner = nn.Softplus()

    def forward(self, x):
        return self.inner(self.slope * x) + 0.1 * x.square()


# f by hand: (x, base or None) -> y -------------------------------------------------------------


def block_skew(x):
    """A = [[S, -R^T], [R, 0]] of a tall x, n x n."""
    n, k = x.shape[-2:]
    lower = torch.cat([x.tril(-1), x.new_zeros(n, n - k)], dim=-1)
    return lower - lower.mT


def by_squaring(A):
    """exp(A) by its series; every derivative of it is one of products."""
    term = total = torch.eye(A.shape[-1])
    for k in range(1, 15):
        term = term @ A / (32 * k)
        total = total + term
    for _ in range(5):
        total = total @ total
    return total


def cayley(A):
    eye = torch.eye(A.shape[-1])
    return torch.linalg.inv(eye - A / 2) @ (eye + A / 2)


def from_base(z, base):
    """Q z with Q orthogonal and Q I = base: the reflectors of base's QR, full size."""
    n, k = base.shape
    Q, R = torch.linalg.qr(base, mode="complete")
    signs = torch.cat([R.diagonal().sign(), torch.ones(n - k)])
    return (Q @ z) * signs[:k] if n > k else base @ z


def orthogonal(exp):
    return lambda x, base: from_base(exp(block_skew(x))[:, : x.shape[-1]], base)


def reflected(x, base):
    """One reflector after the other."""
    y = -base
    for j in reversed(range(x.shape[1])):
        v = torch.cat([torch.zeros(j), torch.ones(1), x[j + 1 :, j]])
        y = y - torch.outer(2 * v / (v @ v), v @ y)
    return y


def definite(x, base):
    low = x.tril(-1) + torch.diag_embed(nn.functional.softplus(x.diagonal()))
    return low @ low.mT


def bent(x, base):
    return nn.functional.softplus(0.8 * x) + 0.1 * x.square()


KINDS = {
    "callable": (lambda: tanh_exp, (3, 3), lambda x, base: tanh_exp(x)),
    "module": (Bent, (3, 3), bent),
    "positive definite": (cp.PositiveDefinite, (3, 3), definite),
    "exp": (cp.Orthogonal, (3, 3), orthogonal(by_squaring)),
    "cayley": (lambda: cp.Orthogonal("cayley"), (3, 3), orthogonal(cayley)),
    "tall exp": (cp.Orthogonal, (4, 2), orthogonal(by_squaring)),
    "tall cayley": (lambda: cp.Orthogonal("cayley"), (4, 2), orthogonal(cayley)),
    "reflectors": (lambda: cp.Orthogonal("householder"), (4, 2), reflected),
}


def layer_of(kind):
    f, shape, _ = KINDS[kind]
    layer = nn.Linear(*reversed(shape), bias=False)
    cp.register_constrained_parameter(layer, "weight", f())
    with torch.no_grad():
        layer._weight_unconstrained.add_(0.2 * torch.randn(layer._weight_unconstrained.shape))
    return layer


def naive_of(kind, layer):
    base = layer._weight_base if hasattr(layer, "_weight_base") else None
    return lambda x: KINDS[kind][2](x, base)


# the transforms: (call, x, z, t) -> tensors, for call(x, z) = z @ f(x)^T ------------------------


def loss(call):
    return lambda x, z: call(x, z).sin().sum()


def dual(call, x, z, t):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(call(forward_ad.make_dual(x, t), z)).tangent


TRANSFORMS = {
    "value": lambda call, x, z, t: call(x, z),
    "grad": lambda call, x, z, t: grad(loss(call), (0, 1))(x, z),
    "vjp": lambda call, x, z, t: vjp(call, x, z)[1](torch.ones(len(z), len(x))),
    "jvp": lambda call, x, z, t: jvp(lambda x: call(x, z), (x,), (t,)),
    "linearize": lambda call, x, z, t: linearize(lambda x: call(x, z), x)[1](t),
    "dual numbers": dual,
    "vmap over x": lambda call, x, z, t: vmap(call, (0, None))(torch.stack([x, x + t]), z),
    "vmap over the input": lambda call, x, z, t: vmap(lambda z: call(x, z[None]))(z),
    "per-sample gradients": lambda call, x, z, t: vmap(lambda z: grad(loss(call))(x, z[None]))(z),
    "per-member gradients": lambda call, x, z, t: vmap(grad(loss(call)), (0, None))(
        torch.stack([x, x + t]), z
    ),
    "jacrev": lambda call, x, z, t: jacrev(call)(x, z),
    "jacfwd": lambda call, x, z, t: jacfwd(call)(x, z),
    "hessian": lambda call, x, z, t: hessian(loss(call))(x, z),
    "jacrev of vmap": lambda call, x, z, t: jacrev(lambda x: vmap(lambda z: call(x, z[None]))(z))(
        x
    ),
    "grad of grad": lambda call, x, z, t: grad(lambda x: grad(loss(call))(x, z).square().sum())(x),
    "vmap of jvp": lambda call, x, z, t: vmap(
        lambda t: jvp(lambda x: loss(call)(x, z), (x,), (t,))[1]
    )(torch.stack([t, x, t + x])),
    "jvp of grad": lambda call, x, z, t: jvp(lambda x: grad(loss(call))(x, z), (x,), (t,)),
    "grad of jvp": lambda call, x, z, t: grad(
        lambda x: jvp(lambda x: loss(call)(x, z), (x,), (t,))[1]
    )(x),
    "jacfwd of jacrev": lambda call, x, z, t: jacfwd(jacrev(loss(call)))(x, z),
    "jacrev of jacrev": lambda call, x, z, t: jacrev(jacrev(loss(call)))(x, z),
    "jacrev of jacfwd": lambda call, x, z, t: jacrev(jacfwd(loss(call)))(x, z),
    "jacfwd of jacfwd": lambda call, x, z, t: jacfwd(jacfwd(loss(call)))(x, z),
    "grad of grad of grad": lambda call, x, z, t: grad(
        lambda x: grad(lambda x: grad(loss(call))(x, z).square().sum())(x).sin().sum()
    )(x),
}
# What torch gets wrong by itself, silently; see the tests at the end.
FUNCTIONS = ("exp", "tall exp", "cayley", "tall cayley", "reflectors", "positive definite")
WRONG = {(kind, "jacfwd of jacfwd"): "forward over forward of a Function" for kind in FUNCTIONS}


def inverse(x):
    """1 / x; its second derivative at 2 is 1/4."""
    return torch.linalg.solve(x.reshape(1, 1), torch.ones(1, 1)).sum()


def solve_loses_a_term():
    """torch 2.13 does, torch 2.15 does not."""
    return jacrev(jacfwd(inverse))(torch.tensor(2.0)).item() != pytest.approx(0.25)


if solve_loses_a_term():
    for name in ("jacrev of jacfwd", "grad of jvp"):
        WRONG["cayley", name] = "a derivative of the forward mode of torch.linalg.solve"


# linearize traces, and operators of torch's library have no forward mode
REFUSED = {(kind, "linearize") for kind in ("exp", "tall exp", "reflectors")}


def both(kind, warmth):
    """(call of the layer, call of f by hand, x, inputs, tangent)."""
    layer = layer_of(kind)
    naive = naive_of(kind, layer)
    x = layer._weight_unconstrained.detach().clone()
    z, t = torch.randn(3, x.shape[1]), torch.randn(x.shape)
    here = x.clone()

    def call(x, z):
        out = functional_call(layer, {X: x}, (z,))
        return out + layer.weight.sum() if warmth == "inside" else out

    def by_hand(x, z):
        out = z @ naive(x).mT
        return out + naive(here).sum() if warmth == "inside" else out

    if warmth == "warm":
        warm(layer)
    else:
        cp.updated(layer, "weight")
    return layer, call, by_hand, x, z, t


def assert_as_without_a_cache(layer, naive):
    """Value and gradient, and another backward, after whatever was done."""
    x = layer._weight_unconstrained.detach().clone().requires_grad_()
    for _ in range(2):
        equal(layer.weight, naive(x))
        (got,) = torch.autograd.grad(layer.weight.sin().sum(), layer._weight_unconstrained)
        equal(got, torch.autograd.grad(naive(x).sin().sum(), x)[0], **LOOSE)


def leaves(found):
    return (
        [found] if isinstance(found, torch.Tensor) else [t for part in found for t in leaves(part)]
    )


@pytest.mark.parametrize("warmth", ["cold", "warm", "inside"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(name, kind, warmth):
    layer, call, by_hand, x, z, t = both(kind, warmth)
    if (kind, name) in REFUSED:
        with pytest.raises(NotImplementedError, match="Use reverse mode there"):
            TRANSFORMS[name](call, x, z, t)
        return
    got, want = (leaves(TRANSFORMS[name](each, x, z, t)) for each in (call, by_hand))
    right = all(
        torch.allclose(g.detach(), w.detach(), **LOOSE) for g, w in zip(got, want, strict=True)
    )
    assert right is ((kind, name) not in WRONG)
    assert_as_without_a_cache(layer, naive_of(kind, layer))


@pytest.mark.parametrize("warmth", ["cold", "warm"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_with_the_constrained_name(name, kind, warmth):
    """A tensor in y's place: its derivative is never lost, and x is not touched."""
    layer, _, _, _, z, _ = both(kind, warmth)
    x = layer._weight_unconstrained
    before, version = x.detach().clone(), x._version
    w, t = torch.randn(x.shape), torch.randn(x.shape)

    def call(w, z):
        return functional_call(layer, {"weight": w}, (z,))

    got = leaves(TRANSFORMS[name](call, w, z, t))
    for g, want in zip(got, leaves(TRANSFORMS[name](lambda w, z: z @ w.mT, w, z, t)), strict=True):
        equal(g, want)
    assert torch.equal(x, before) and x._version == version
    assert_as_without_a_cache(layer, naive_of(kind, layer))


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_by_backward_reaches_the_tensor_that_was_given(kind):
    """No transform at all: ``functional_call`` and ``backward``, with either name."""
    layer, _, _, x, z, _ = both(kind, "warm")
    naive = naive_of(kind, layer)
    for key, f, value in (("weight", lambda w: w, naive(x).detach()), (X, naive, x)):
        given, beside = (value.clone().requires_grad_() for _ in range(2))
        functional_call(layer, {key: given}, (z,)).sin().sum().backward()
        (z @ f(beside).mT).sin().sum().backward()
        equal(given.grad, beside.grad, **LOOSE)
        assert layer._weight_unconstrained.grad is None
    assert_as_without_a_cache(layer, naive)


@pytest.mark.parametrize("warmth", ["cold", "warm"])
@pytest.mark.parametrize("kind", KINDS)
def test_ensemble_of_stacked_modules(kind, warmth):
    """Each member with its own x, map state and parameters of f; values and gradients."""
    members = [layer_of(kind) for _ in range(3)]
    for member in members if warmth == "warm" else ():
        warm(member)
    parameters, buffers = stack_module_state(members)
    z = torch.randn(3, members[0].in_features)

    def call(p, b, z):
        return functional_call(members[1], (p, b), (z,))

    out = vmap(call, (0, 0, None))(parameters, buffers, z)
    out.sin().sum().backward()
    for i, member in enumerate(members):
        x = member._weight_unconstrained.detach().clone().requires_grad_()
        want = z @ naive_of(kind, member)(x).mT
        equal(out[i], want, **LOOSE)
        equal(parameters[X].grad[i], torch.autograd.grad(want.sin().sum(), x)[0], **LOOSE)
        assert_as_without_a_cache(member, naive_of(kind, member))


@pytest.mark.parametrize("kind", KINDS)
def test_transforms_of_the_module_itself(kind):
    """With respect to the input, the layer reading its own x."""
    layer, _, _, x, z, _ = both(kind, "warm")
    y, t = naive_of(kind, layer)(x), torch.randn(z.shape)
    for name, ours, plain in (
        ("vmap", vmap(layer), lambda z: z @ y.mT),
        ("grad", grad(lambda z: layer(z).sin().sum()), grad(lambda z: (z @ y.mT).sin().sum())),
        ("jacrev of vmap", jacrev(vmap(layer)), jacrev(lambda z: z @ y.mT)),
        ("jacfwd of vmap", jacfwd(vmap(layer)), jacfwd(lambda z: z @ y.mT)),
        ("jvp", lambda z: jvp(layer, (z,), (t,))[1], lambda z: t @ y.mT),
    ):
        got, want = ours(z), plain(z)
        assert torch.allclose(got, want, **LOOSE), name
        if name == "vmap":  # a gradient flows out of the transform to x
            (found,) = torch.autograd.grad(got.sin().sum(), layer._weight_unconstrained)
            leaf = x.clone().requires_grad_()
            (wanted,) = torch.autograd.grad((z @ naive_of(kind, layer)(leaf).mT).sin().sum(), leaf)
            equal(found, wanted, **LOOSE)
    assert_as_without_a_cache(layer, naive_of(kind, layer))


# What is wrong in torch itself -----------------------------------------------------------------


class Cube(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)
        ctx.save_for_backward(*inputs)

    @staticmethod
    def jvp(ctx, t):
        return 3 * ctx.saved_tensors[0] ** 2 * t

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


def test_torch_loses_a_term_of_forward_over_forward_through_a_function():
    """(x^3)'' = 12 at 2 by every nesting but this one, where jvp is not differentiated once more."""
    x = torch.tensor(2.0)
    for right in (jacfwd(jacrev(Cube.apply)), jacrev(jacfwd(Cube.apply)), hessian(Cube.apply)):
        assert right(x).item() == pytest.approx(12.0)
    assert jacfwd(jacfwd(Cube.apply))(x).item() == pytest.approx(0.0)


def test_torch_loses_a_term_of_what_follows_forward_mode_of_solve():
    x = torch.tensor(2.0)
    for right in (jacfwd(jacrev(inverse)), jacrev(jacrev(inverse))):
        assert right(x).item() == pytest.approx(0.25)
    for wrong in (jacrev(jacfwd(inverse)), jacfwd(jacfwd(inverse))):
        assert (wrong(x).item() != pytest.approx(0.25)) is solve_loses_a_term()
