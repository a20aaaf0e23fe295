"""Reflectors in compact form: against their explicit product, SciPy's QR and mpmath; cost, rules."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch.utils.flop_counter import FlopCounterMode

from constrainedparams import Orthogonal, SpecialOrthogonal
from constrainedparams.numerics.householder import (
    householder_from,
    householder_inverse,
    log_det_householder,
)

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
SHAPES = [(1, 1), (2, 2), (3, 1), (5, 3), (64, 16), (80, 70), (80, 80)]


def wide(dtype):
    return torch.complex128 if dtype.is_complex else torch.float64


def signed(n, k, dtype):
    """I_{n x k} D with random signs or phases."""
    d = torch.randn(k, dtype=wide(dtype)).sgn()
    return torch.eye(n, k, dtype=wide(dtype)).mul(d).to(dtype)


def reflected(x, base):
    """-H_1 ... H_k base, one reflector after the other."""
    y = -base
    for j in reversed(range(x.shape[1])):
        v = torch.cat((torch.zeros_like(x[:j, j]), torch.ones_like(x[:1, j]), x[j + 1 :, j]))
        length = (v * v.conj()).sum()
        half = 0.5 * (length + 1j * x[j, j].imag if x.is_complex() else length)
        y = y - torch.outer(v, v.conj() @ y) / half
    return y


def exact(x, base, g):
    """Value and gradient of the explicit product in double precision, by autograd."""
    leaf = x.to(wide(x.dtype)).requires_grad_()
    y = reflected(leaf, base.to(leaf.dtype))
    return y.detach(), torch.autograd.grad(y, leaf, g.to(leaf.dtype))[0]


def both(x, base, g):
    leaf = x.clone().requires_grad_()
    y = householder_from(base, leaf)
    return y.detach(), torch.autograd.grad(y, leaf, g)[0]


def error(found, true, size=0.0):
    """In Frobenius norms relative to the result (or ``size``), in rounding units."""
    gap = float(torch.linalg.norm(found.to(true.dtype) - true))
    size = max(float(torch.linalg.norm(true)), size)
    return gap / (size or 1.0) / torch.finfo(found.dtype).eps


def defect(y):
    """In rounding units."""
    y, eps = y.to(wide(y.dtype)), torch.finfo(y.dtype).eps
    return float(torch.linalg.norm(y.mH @ y - torch.eye(y.shape[-1]))) / eps


# accuracy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_distance_and_gradient_are_as_good_as_rounding_allows(shape, dtype, scale):
    n, k = shape
    x, base = scale * torch.randn(n, k, dtype=dtype), signed(n, k, dtype)
    g = torch.randn(n, k, dtype=dtype)
    found, true = both(x, base, g), exact(x, base, g)
    single = torch.finfo(dtype).eps > 1e-10
    # Double precision has no longer one inside, nor has the oracle.
    allowed = 2 * math.sqrt(n) if single else 12 * math.sqrt(n)
    # Where x is large its gradient is small, of terms as large as g times the slope 2 / |v_j|.
    slope = 0.0 if single else float(torch.linalg.norm(g)) / max(1.0, scale)
    assert error(found[0], true[0]) <= allowed
    assert error(found[1], true[1], slope) <= allowed
    assert defect(found[0]) <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("shape", [(512, 64), (256, 256)], ids=str)
def test_a_large_one_is_as_accurate(shape, dtype):
    x, base = torch.randn(shape, dtype=dtype) / 16, signed(*shape, dtype)
    g = torch.randn(shape, dtype=dtype)
    found, true = both(x, base, g), exact(x, base, g)
    assert error(found[0], true[0]) < 1
    assert error(found[1], true[1]) < 6
    assert defect(found[0]) < 0.5 * math.sqrt(shape[0])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
def test_value_and_gradient_are_those_of_mpmath(scale):
    n, k = 5, 3
    x, base = scale * torch.randn(n, k, dtype=torch.float64), signed(n, k, torch.float64)
    g = torch.randn(n, k, dtype=torch.float64)
    with mpmath.workdps(40):

        def f(at):
            y = -mpmath.matrix(base.tolist())
            for j in reversed(range(k)):
                v = mpmath.matrix([0] * j + [1] + [at[i, j] for i in range(j + 1, n)])
                y = y - 2 * v * (v.T * y) / (v.T * v)[0]
            return y

        at, step = mpmath.matrix(x.tolist()), mpmath.mpf(10) ** -13
        slope = torch.zeros(n, k, dtype=torch.float64)
        for i in range(n):
            for j in range(k):
                up, down = at.copy(), at.copy()
                up[i, j] += step
                down[i, j] -= step
                change = (f(up) - f(down)) / (2 * step)
                terms = [change[a, b] * float(g[a, b]) for a in range(n) for b in range(k)]
                slope[i, j] = float(sum(terms))
        value = torch.tensor(
            [[float(t) for t in row] for row in f(at).tolist()], dtype=torch.float64
        )
    y, pulled = both(x, base, g)
    assert error(y, value) <= 4 * math.sqrt(n)
    assert error(pulled, slope, float(torch.linalg.norm(g)) / max(1.0, scale)) <= 4 * math.sqrt(n)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e-3, 1e3, 1e6, 1e20])
@pytest.mark.parametrize("shape", [(40, 8), (600, 8)], ids=str)
def test_the_gradient_does_not_depend_on_the_size_of_what_comes_in(shape, size):
    x, base, g = torch.randn(shape), signed(*shape, torch.float32), torch.randn(shape)
    assert error(both(x, base, size * g)[1] / size, exact(x, base, g)[1]) < 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(40, 6), (1000, 6), (40, 40), (100, 100)], ids=str)
@pytest.mark.parametrize("apart", [0.0, 1e-3, 1.0])
def test_reflectors_that_are_nearly_the_same(apart, shape, dtype):
    """V has nearly equal columns: its Gram matrix is singular, N = T^-1 is not."""
    same = torch.randn(shape[0], 1, dtype=dtype) / 3
    x, base = same + apart * torch.randn(shape, dtype=dtype), signed(*shape, dtype)
    g = torch.randn(shape, dtype=dtype)
    found, true = both(x, base, g), exact(x, base, g)
    for a, b in zip(found, true, strict=True):
        assert error(a, b) < 4 * math.sqrt(shape[0])
    assert defect(found[0]) < 4 * math.sqrt(shape[0])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_matrix(value):
    x, base = torch.randn(3, 6, 2), signed(6, 2, torch.float32)
    x[0, 4, 1] = value
    y = householder_from(base, x)
    assert not y[0].isfinite().all()
    assert torch.equal(y[1:], householder_from(base, x[1:]))


# what f is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (7, 1)], ids=str)
def test_value_is_that_of_lapack(shape):
    """orgqr multiplies the same reflectors; SciPy's QR finds those of any matrix."""
    qr, tau, _, _ = scipy.linalg.lapack.dgeqrf(np.random.default_rng(0).standard_normal(shape))
    x = torch.from_numpy(np.tril(qr, -1))
    lengths = 1 + x.square().sum(0)
    kept = tau[: shape[1] - (shape[0] == shape[1])]  # the last of a square one is the identity
    assert np.abs(2 / lengths.numpy()[: len(kept)] - kept).max() < 1e-14
    tau[len(kept) :] = 2.0
    q = scipy.linalg.lapack.dorgqr(qr, tau)[0]
    y = householder_from(None, x)
    assert np.abs(y.numpy() + q).max() < 1e-14


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(4, 4), (6, 2), (1, 1)], ids=str)
def test_zero_leads_to_the_base_and_a_base_is_read_by_its_phases(shape, dtype):
    base = signed(*shape, dtype)
    at_zero = householder_from(base, torch.zeros_like(base))
    assert error(at_zero, base) < 1
    assert torch.equal(householder_from(None, torch.zeros_like(base)), torch.eye(*shape).to(dtype))
    x = torch.randn_like(base)
    zeros = torch.zeros_like(base)
    assert torch.equal(householder_from(zeros, x), householder_from(None, x))
    assert error(householder_from(3 * base + x.triu(1), x), householder_from(base, x)) < 16


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_read_changes_nothing(dtype):
    x, noise = torch.randn(6, 4, dtype=dtype), torch.randn(6, 4, dtype=dtype).triu(1)
    noise.diagonal().copy_(torch.randn(4))
    leaf = x.requires_grad_()
    y = householder_from(None, leaf)
    y.abs().sin().sum().backward()
    assert torch.equal(householder_from(None, x + noise), y)
    unread = leaf.grad * (noise != 0)
    assert not (unread.real if dtype.is_complex else unread).triu().any()
    assert not unread.triu(1).any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 2), (5, 3), (33, 33), (100, 70), (2, 4, 2), (300, 3)], ids=str
)
def test_every_matrix_with_orthonormal_columns_has_short_reflectors(shape, dtype):
    """Haar ones, permutations, signs: the way back finds x, whose columns have the length 1 at most."""
    *batch, n, k = shape
    haar = torch.linalg.qr(torch.randn(shape, dtype=wide(dtype)))[0].to(dtype)
    shuffled = torch.eye(n, dtype=dtype)[torch.randperm(n)][:, :k].expand(*batch, n, k)
    for y in (haar, shuffled, -shuffled, signed(n, k, dtype).expand(*batch, n, k)):
        x, base = householder_inverse(y)
        assert x.dtype == base.dtype == dtype
        assert float((householder_from(base, x) - y).abs().max()) < 16 * torch.finfo(dtype).eps
        assert not x.triu().any()
        lengths = torch.linalg.vector_norm(x.to(wide(dtype)), dim=-2)
        assert float(lengths.max()) <= 1 + 8 * torch.finfo(dtype).eps
        on = torch.diagonal(base, dim1=-2, dim2=-1)
        assert float((on.abs() - 1).abs().max()) < 4 * torch.finfo(dtype).eps
        assert torch.equal(base, torch.diag_embed(on)[..., :k] if n == k else _tall(on, n))


def _tall(on, n):
    full = torch.zeros(*on.shape[:-1], n, on.shape[-1], dtype=on.dtype)
    torch.diagonal(full, dim1=-2, dim2=-1).copy_(on)
    return full


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_determinant_of_a_square_one_is_that_of_its_base(n, sign):
    y = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
    y[:, 0] *= sign * torch.linalg.det(y).sign()
    x, base = householder_inverse(y)
    assert float(base.diagonal().prod()) == sign
    moved = householder_from(base, x + 3 * torch.randn_like(x))
    assert float(torch.linalg.det(moved)) == pytest.approx(sign)


@pytest.mark.parametrize("cls", [Orthogonal, SpecialOrthogonal])
def test_retract_shortens_the_reflectors_and_keeps_the_value(cls):
    constraint = cls("householder")
    x, state = constraint.right_inverse(constraint.sample((6, 6)))
    x = x + 20 * torch.randn(6, 6)
    moved, after = constraint.retract(x, **state)
    assert float(torch.linalg.vector_norm(moved, dim=0).max()) <= 1 + 1e-6
    y = constraint(x, **state)
    assert torch.allclose(constraint(moved, **after), y, atol=2e-6)
    assert after["base"].dtype == torch.float32
    assert torch.linalg.det(after["base"]) == torch.linalg.det(state["base"])


def test_thousands_of_retractions_do_not_drift():
    constraint = Orthogonal("householder")
    for shape in ((64, 64), (96, 32)):
        x, state = constraint.right_inverse(constraint.sample(shape))
        step = 1e-2 * torch.randn(shape)
        for turn in range(100):
            x, state = constraint.retract(x + (step if turn % 2 else -0.9 * step), **state)
        assert float(constraint.residual(constraint(x, **state))) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(2, 1), (4, 4), (5, 2), (6, 1)], ids=str)
def test_the_volume_is_that_of_the_jacobian(shape, dtype):
    """In the frame of a constant unitary matrix that begins with y, by differences of autograd."""
    n, k = shape
    x = torch.randn(shape, dtype=dtype)
    start = householder_from(None, x)
    frame = torch.linalg.qr(start, mode="complete")[0]
    frame = torch.cat((start, frame[:, k:]), dim=1)
    raw = torch.view_as_real(x) if dtype.is_complex else x
    rows, columns = torch.tril_indices(n, k, 0 if dtype.is_complex else -1)

    def f(raw):
        y = householder_from(None, torch.view_as_complex(raw) if dtype.is_complex else raw)
        free = (frame.mH @ y)[rows, columns]
        return torch.view_as_real(free) if dtype.is_complex else free

    full = torch.autograd.functional.jacobian(f, raw.contiguous()).reshape(-1, raw.numel())
    keep = (full != 0).any(0)
    full = full[(full.abs() > 1e-12).any(1)] if dtype.is_complex else full
    square = full[:, keep]
    true = torch.linalg.slogdet(square)[1] if square.numel() else torch.zeros(())
    assert float(log_det_householder(x)) == pytest.approx(float(true), abs=1e-10)


# cost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "most"), [((1024, 64), 5.3), ((4096, 64), 5.1), ((256, 256), 4.6)], ids=str
)
def test_products_there_and_back(shape, most):
    """Five with n rows, of n k^2 operations; the others are k x k."""
    n, k = shape
    x, base, g = torch.randn(shape, requires_grad=True), torch.eye(n, k), torch.randn(shape)
    with FlopCounterMode(display=False) as count:
        torch.autograd.grad(householder_from(base, x), x, g)
    assert count.get_total_flops() / (2 * n * k * k) <= most


def test_the_peak_is_at_most_six_weights(allocations):
    """With y and the gradient of x, two of the six."""
    x, base, g = (
        torch.randn(4096, 16, requires_grad=True),
        torch.eye(4096, 16),
        torch.randn(4096, 16),
    )

    def step():
        return torch.autograd.grad(householder_from(base, x), x, g)

    _, peak = allocations(step)
    assert 2 <= peak / x.nbytes <= 5


# derivatives of all orders and transformations ----------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 4, 2)], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 3.0])
def test_first_and_second_derivatives(scale, shape, dtype):
    leaf = (scale * torch.randn(shape, dtype=dtype)).requires_grad_()
    base = signed(*shape[-2:], dtype)

    def f(x):
        return householder_from(base, x)

    assert torch.autograd.gradcheck(
        f, leaf, check_forward_ad=True, check_batched_grad=True, check_undefined_grad=True
    )
    assert torch.autograd.gradgradcheck(f, leaf, check_fwd_over_rev=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(9, 3), (5, 5), (150, 150), (2, 200, 150)], ids=str)
def test_the_two_ways_back_agree(shape, dtype):
    x, base, g = (
        torch.randn(shape, dtype=dtype),
        signed(*shape[-2:], dtype),
        torch.randn(shape, dtype=dtype),
    )
    leaf = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(householder_from(base, leaf), leaf, g)
    (traced,) = torch.autograd.grad(householder_from(base, leaf), leaf, g, create_graph=True)
    assert traced.requires_grad
    assert torch.allclose(plain, traced, rtol=0, atol=1e-12)


def test_transformations():
    base = signed(5, 2, torch.float64)

    def f(x):
        return householder_from(base, x)

    def loss(x):
        return f(x).sin().sum()

    x = torch.randn(4, 5, 2, dtype=torch.float64)
    loop = torch.stack([f(t) for t in x])
    assert torch.allclose(torch.func.vmap(f)(x), loop, atol=1e-13)
    along = torch.func.vmap(f, in_dims=2, out_dims=2)(x.permute(1, 2, 0))
    assert torch.allclose(along.permute(2, 0, 1), loop, atol=1e-13)
    bases = torch.stack([signed(5, 2, torch.float64) for _ in range(4)])
    pairs = torch.stack([householder_from(b, t) for b, t in zip(bases, x, strict=True)])
    assert torch.allclose(torch.func.vmap(householder_from)(bases, x), pairs, atol=1e-13)
    twice = torch.func.vmap(f)(x.reshape(2, 2, 5, 2))
    assert torch.allclose(twice.reshape(4, 5, 2), loop, atol=1e-13)
    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    assert torch.allclose(torch.func.vmap(torch.func.grad(loss))(x), leaf.grad, atol=1e-13)
    again = torch.func.jacrev(torch.func.jacrev(loss))(x[0])
    assert torch.allclose(torch.func.jacfwd(torch.func.jacrev(loss))(x[0]), again, atol=1e-12)
    assert torch.allclose(torch.func.jacrev(torch.func.jacfwd(loss))(x[0]), again, atol=1e-12)


@pytest.mark.parametrize(
    ("backend", "view"),
    [("inductor", "plain"), ("aot_eager", "plain"), ("aot_eager", "mH"), ("aot_eager", "conj")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex")
def test_compiled_is_eager(dtype, backend, view):
    """Lazy conjugation is off in compiled graphs: views of both kinds must be read right."""
    torch.compiler.reset()
    see = {"plain": lambda t: t, "mH": lambda t: t.mH, "conj": torch.conj}[view]
    shape = (2, 2, 5) if view == "mH" else (2, 5, 2)
    x, g = torch.randn(shape, dtype=dtype), torch.randn(2, 2, 5, dtype=dtype).mH
    base = signed(5, 2, dtype)
    found = []
    for f in (
        torch.compile(lambda t: householder_from(base, see(t)), fullgraph=True, backend=backend),
        lambda t: householder_from(base, see(t)),
    ):
        leaf = x.clone().requires_grad_()
        y = f(leaf)
        found.append((y.detach(), torch.autograd.grad(y, leaf, g)[0]))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_operations_keep_the_rules_of_torch_library():
    x, phases = torch.randn(2, 5, 2, requires_grad=True), torch.ones(2, 1, 2, dtype=torch.float64)
    torch.library.opcheck(torch.ops.constrainedparams.householder, (phases, x))
    torch.library.opcheck(
        torch.ops.constrainedparams.householder_pullback,
        (torch.randn(2, 5, 2), phases, x.detach()),
    )
    meta = torch.empty(2, 5, 2, device="meta")
    assert householder_from(None, meta).shape == (2, 5, 2)


@pytest.mark.parametrize("shape", [(3, 0), (0, 0), (0, 3, 2)], ids=str)
def test_empty_matrices_and_batches(shape):
    leaf = torch.zeros(shape, requires_grad=True)
    householder_from(None, leaf).sum().backward()
    assert leaf.grad.shape == shape
    x, base = householder_inverse(torch.zeros(shape))
    assert x.shape == base.shape == shape


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 2), (4, 4), (200, 200)], ids=str)
def test_value_and_gradient_are_contiguous(shape, dtype):
    x, g = torch.randn(shape, dtype=dtype), torch.randn(shape[::-1], dtype=dtype).mH
    for t in both(x, torch.eye(*shape, dtype=dtype), g):
        assert t.is_contiguous()
        assert not t.is_conj()


def test_the_input_and_what_was_kept_stay_as_they_are():
    x, base = torch.randn(7, 2, dtype=torch.float64), signed(7, 2, torch.float64)
    before, leaf = x.clone(), x.requires_grad_()
    y = householder_from(base, leaf)
    g = torch.randn(7, 2, dtype=torch.float64)
    first = torch.autograd.grad(y, leaf, g, retain_graph=True)[0]
    y.detach().zero_()
    assert torch.equal(torch.autograd.grad(y, leaf, g)[0], first)
    assert torch.equal(leaf, before)
    start = torch.linalg.qr(before)[0]
    kept = start.clone()
    householder_inverse(start)
    assert torch.equal(start, kept)
