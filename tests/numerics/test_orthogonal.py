"""Tall maps against the dense n x n formulas of scipy; nothing they build is n x n."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from constrainedparams import Grassmann, Orthogonal, register_constrained_parameter
from constrainedparams.numerics import orthogonal as maps


def dense(x):
    """A = [[S, -R^H], [R, 0]], n x n, in NumPy, written out entry by entry."""
    x = x.numpy()
    n, k = x.shape
    a = np.zeros((n, n), dtype=x.dtype)
    for i in range(n):
        for j in range(min(i, k)):
            a[i, j], a[j, i] = x[i, j], -np.conj(x[i, j])
        if i < k and np.iscomplexobj(x):
            a[i, i] = 1j * x[i, i].imag
    return a


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(4, 4), (7, 2), (5, 4), (3, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_maps_are_the_dense_formulas(dtype, shape, scale):
    x = scale * torch.randn(shape, dtype=dtype)
    a, (n, k) = dense(x), shape
    exp = scipy.linalg.expm(a)[:, :k]
    half = 0.5 * a
    cayley = scipy.linalg.solve(np.eye(n) - half, np.eye(n) + half)[:, :k]
    bound = 1e-12 * (1 + scale) ** 2
    assert np.abs(maps.exponential(x).numpy() - exp).max() < bound
    assert np.abs(maps.cayley(x).numpy() - cayley).max() < bound


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(4, 4), (7, 2), (5, 4), (3, 1)], ids=str)
def test_transport_is_unitary_and_moves_the_identity_to_the_base(dtype, shape):
    n, _ = shape
    base = maps.haar(torch.randn(shape, dtype=dtype))
    first = maps.first_columns(base)
    assert torch.allclose(maps.transport(base, first), base)
    z = maps.haar(torch.randn(shape, dtype=dtype))
    gram = lambda t: t.mH @ t  # noqa: E731
    assert torch.allclose(gram(maps.transport(base, z)), torch.eye(shape[1], dtype=dtype))
    # tall bases whose top block is the identity, zero, or a reflection
    for special in (first, first.flip(0), -first):
        assert torch.allclose(maps.transport(special, first), special)
        assert maps.defect(maps.transport(special, z)) < 1e-13 * n


@pytest.mark.parametrize("again", [False, True], ids=["kept", "again"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_the_gradient_of_a_transport_is_its_adjoint(dtype, again):
    """<g, transport of w> = <gradient at g, w> for every w: a transport is linear."""
    base = maps.haar(torch.randn(7, 3, dtype=dtype))
    z, g = torch.randn(7, 3, dtype=dtype, requires_grad=True), torch.randn(7, 3, dtype=dtype)
    (found,) = torch.autograd.grad(maps.transport(base, z), z, g, create_graph=again)
    for w in torch.randn(21, 7, 3, dtype=dtype):
        along = (g.conj() * maps.transport(base, w)).real.sum()
        assert torch.allclose((found.conj() * w).real.sum(), along)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_what_a_cast_to_half_precision_took_away_is_polished(dtype):
    """4e-3 off: one step leaves the square of that, two leave rounding."""
    y = maps.haar(torch.randn(5, 9, 4, dtype=dtype))
    cast = y + 2e-3 * torch.randn_like(y)
    assert float(maps.defect(cast).min()) > 1e-3
    assert float(maps.defect(maps.polished(cast)).max()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_polar_is_that_of_scipy(dtype):
    y = torch.randn(6, 3, dtype=dtype)
    assert np.abs(maps.polar(y).numpy() - scipy.linalg.polar(y.numpy())[0]).max() < 1e-13
    near = maps.haar(y) + 1e-3 * torch.randn(6, 3, dtype=dtype)
    assert np.abs(maps.polar(near).numpy() - scipy.linalg.polar(near.numpy())[0]).max() < 1e-13


def test_haar_has_the_moments_of_scipys():
    y = maps.haar(torch.randn(20_000, 3, 3))
    # E tr = 0, E tr^2 = 1 for Haar on O(3); a QR without fixed signs gives a negative mean trace
    trace = y.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert abs(float(trace.mean())) < 0.03
    assert float((trace**2).mean()) == pytest.approx(1.0, abs=0.04)


class Watch(TorchDispatchMode):
    """The largest intermediate, and how often two of its axes are as long as n."""

    def __init__(self, n):
        super().__init__()
        self.n, self.square, self.largest = n, [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor):
                self.largest = max(self.largest, t.numel())
                if sum(length >= self.n for length in t.shape) > 1:
                    self.square.append(str(function))
        return out


@pytest.mark.parametrize("transposed", [False, True], ids=["tall", "wide"])
@pytest.mark.parametrize("name", ["exp", "cayley"])
@pytest.mark.parametrize("cls", [Orthogonal, Grassmann])
def test_a_tall_map_never_builds_an_n_by_n_array(cls, name, transposed):
    n, k = 160, 4
    shape = (k, n) if transposed else (n, k)
    constraint = cls(name, view="k n -> n k" if transposed and cls is Grassmann else None)
    start = constraint.sample(shape)
    with Watch(n) as watch:
        assert bool(constraint.contains(start).all())
        x, state = constraint.right_inverse(start + 1e-7)
        x = (x + 0.1).requires_grad_()
        y = constraint(x, **state)
        (g,) = torch.autograd.grad(y, x, torch.randn(shape), create_graph=True)
        torch.autograd.grad(g.square().sum(), x)
        constraint.project(torch.randn(shape))
        constraint.retract(x.detach(), **state)
        constraint.sample(shape)
    assert watch.square == []
    assert watch.largest <= 2 * n * k


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e-2, 1.0, 10.0])
@pytest.mark.parametrize("function", [maps.exponential, maps.cayley])
def test_many_small_entries_do_not_spoil_the_polish(function, scale):
    """At 1e-4 the squares of a row vanish beside the 1 on the diagonal: they are not lost."""
    x = scale * torch.randn(128, 128)
    y = maps.moved(function(x), None)
    assert float(maps.defect(y)) < 1.6e-6  # 1.2e-7 * sqrt(128), and a bit


@pytest.mark.parametrize("name", ["exp", "cayley", "polar"])
def test_the_peak_of_a_tall_layer_is_at_most_six_weights(name, allocations):
    """A whole step, the value handed out and all gradients included; 2 more are stored at most."""
    layer = torch.nn.Linear(16, 4096, bias=False)
    register_constrained_parameter(layer, "weight", Orthogonal(name))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    batch = torch.randn(4, 16)

    def step():
        layer(batch).square().sum().backward()
        optimizer.step()

    _, peak = allocations(step)
    size = 4 * 16 * 4096
    assert 3 * size <= peak <= 6 * size
    assert sum(t.nbytes for t in layer.state_dict().values()) <= 2 * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.float64], ids=str)
@pytest.mark.parametrize("place", [maps.exponential_from, maps.cayley_from])
def test_a_value_at_a_base_is_the_transported_one_with_its_gradient(place, dtype):
    """In one kernel, which writes over its own intermediates."""
    f = maps.exponential if place is maps.exponential_from else maps.cayley
    wide = torch.complex128 if dtype.is_complex else torch.float64
    base, x = (
        maps.haar(torch.randn(2, 1100, 3, dtype=wide)),
        0.3 * torch.randn(2, 1100, 3, dtype=wide),
    )
    x, base, g = x.to(dtype), base.to(dtype), torch.randn(2, 1100, 3, dtype=dtype)
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    kept = [t.clone() for t in (base, g)]
    y, other = place(base, one), maps.transport(base, f(two))
    (found,), (true,) = (torch.autograd.grad(v, t, g) for v, t in ((y, one), (other, two)))
    tight = 1e-13 if dtype == torch.float64 else 1e-5
    assert torch.allclose(y, other, atol=tight)
    assert torch.allclose(found, true, atol=tight)
    assert all(torch.equal(a, b) for a, b in zip(kept, (base, g), strict=True))


@pytest.mark.parametrize("norm", [1e-6, 1e-2, 1.2, 3.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("n", [2, 16, 128])
def test_cayley_at_a_base_is_as_good_as_rounding_allows(n, dtype, norm):
    """Value, distance from the set and gradient beside double precision, for gradients of any size."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    x = torch.randn(n, n, dtype=wide).tril(-1)
    x = (x * (norm / torch.linalg.matrix_norm(x - x.mH, 2))).to(dtype)
    base, g = maps.haar(torch.randn(n, n, dtype=wide)), torch.randn(n, n, dtype=dtype)
    leaf = x.to(wide).requires_grad_()
    s, one = leaf.tril(-1) - leaf.tril(-1).mH, torch.eye(n, dtype=wide)
    true = base.to(dtype).to(wide) @ torch.linalg.inv(one - s / 2) @ (one + s / 2)
    (slope,) = torch.autograd.grad(true, leaf, g.to(wide))
    allowed = 4 * n**0.5 * max(1.0, norm / 6) * torch.finfo(dtype).eps
    for size in (1e-6, 1.0, 1e6):
        own = x.clone().requires_grad_()
        y = maps.cayley_from(base.to(dtype), own)
        (found,) = torch.autograd.grad(y, own, size * g)
        found = found.tril(-1) / size
        assert torch.linalg.norm(found - slope) <= allowed * torch.linalg.norm(slope)
    assert torch.linalg.norm(y.detach() - true.detach()) <= allowed * n**0.5
    assert float(maps.defect(y.detach())) <= allowed * n**0.5
