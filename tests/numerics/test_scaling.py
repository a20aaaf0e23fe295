"""Matrices scaled to given sums: against plain Sinkhorn, assignments, and differences."""

import numpy as np
import pytest
import scipy.optimize
import torch

from constrainedparams.numerics.scaling import scaled_to_sums

SHAPES = pytest.mark.parametrize("shape", [(1, 1), (4, 4), (2, 5), (5, 2)], ids=str)


def sums(n, m, even=False):
    rows, columns = torch.rand(n).double() + 0.1, torch.rand(m).double() + 0.1
    if even:
        rows, columns = torch.ones_like(rows), torch.full_like(columns, n / m)
    return rows, columns * (rows.sum() / columns.sum())


def sinkhorn(x, rows, columns, steps=100_000):
    """Plain iterations on the entries, in NumPy, until nothing moves."""
    p = np.exp(x.numpy() - x.numpy().max())
    for _ in range(steps):
        before = p
        p = p * (rows.numpy() / p.sum(1))[:, None]
        p = p * (columns.numpy() / p.sum(0))
        if np.abs(p - before).max() < 1e-16:
            break
    return p


def error(p, rows, columns):
    return max(
        float((p.sum(-1) / rows - 1).abs().max()), float((p.sum(-2) / columns - 1).abs().max())
    )


@SHAPES
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_values_are_those_of_plain_iterations(scale, shape):
    x, (rows, columns) = scale * torch.randn(shape, dtype=torch.float64), sums(*shape)
    p = scaled_to_sums(x, rows, columns)
    assert np.allclose(p.numpy(), sinkhorn(x, rows, columns), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1e3, 1e5])
@pytest.mark.parametrize(("n", "m"), [(2, 2), (4, 4), (4, 7), (16, 16), (64, 64)])
@pytest.mark.parametrize("even", [True, False])
def test_sums_are_right_to_rounding_for_logits_of_any_size(even, n, m, scale):
    """Where 20 plain iterations are off by 1e-5 to 1."""
    x, (rows, columns) = scale * torch.randn(3, n, m, dtype=torch.float64), sums(n, m, even)
    assert error(scaled_to_sums(x, rows, columns), rows, columns) < 4e-14


def test_large_logits_give_the_best_assignment():
    for seed in range(3):
        x = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        p = scaled_to_sums(3000 * x, torch.ones(8).double(), torch.ones(8).double())
        _, best = scipy.optimize.linear_sum_assignment(-x.numpy())
        assert p.argmax(1).tolist() == best.tolist()
        assert p.amax(1).min() > 0.99


def test_logits_that_ask_one_column_for_everything():
    """Rows that all want the same column, and zeros of exp in double precision elsewhere."""
    x = torch.zeros(5, 5, dtype=torch.float64)
    x[:, 0] = 2000
    one = torch.ones(5, dtype=torch.float64)
    assert torch.allclose(scaled_to_sums(x, one, one), torch.full_like(x, 0.2), atol=1e-14)
    triangle = -1000 * torch.ones(5, 5, dtype=torch.float64).triu(1)
    assert torch.allclose(scaled_to_sums(triangle, one, one), torch.eye(5).double(), atol=1e-14)


@SHAPES
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_first_and_second_derivatives_and_forward_mode(scale, shape):
    n, m = shape
    rows, columns = sums(n, m)
    leaf = (scale * torch.randn(2, n, m, dtype=torch.float64)).requires_grad_()

    def f(x):
        return scaled_to_sums(x, rows, columns)

    assert torch.autograd.gradcheck(f, leaf, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, leaf, check_fwd_over_rev=True)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_gradient_is_that_of_converged_iterations_at_every_size(size):
    """Autograd through 3000 iterations in torch."""
    x, (rows, columns) = torch.randn(6, 6, dtype=torch.float64), sums(6, 6)
    g = torch.randn(6, 6, dtype=torch.float64)
    slow, fast = (x.clone().requires_grad_() for _ in range(2))
    p = slow.exp()
    for _ in range(3000):
        p = p * (rows / p.sum(1))[:, None]
        p = p * (columns / p.sum(0))
    (expected,) = torch.autograd.grad(p, slow, g)
    (found,) = torch.autograd.grad(scaled_to_sums(fast, rows, columns), fast, size * g)
    assert torch.allclose(found / size, expected, atol=1e-12)


def test_the_gradient_of_blocks_that_have_fallen_apart_is_finite_and_theirs():
    x = torch.full((4, 4), -800.0, dtype=torch.float64)
    inner = torch.randn(2, 2, dtype=torch.float64)
    x[:2, :2] = x[2:, 2:] = inner
    one = torch.ones(4, dtype=torch.float64)
    leaf, small = x.requires_grad_(), inner.clone().requires_grad_()
    g = torch.randn(4, 4, dtype=torch.float64)
    (found,) = torch.autograd.grad(scaled_to_sums(leaf, one, one), leaf, g)
    (block,) = torch.autograd.grad(scaled_to_sums(small, one[:2], one[:2]), small, g[:2, :2])
    assert torch.allclose(found[:2, :2], block, atol=1e-12)
    assert torch.isfinite(found).all()


def test_transformations_and_compilation():
    x, (rows, columns) = torch.randn(4, 3, 5, dtype=torch.float64), sums(3, 5)

    def f(x):
        return scaled_to_sums(x, rows, columns)

    def size(x):
        return f(x).square().sum()

    loop = torch.stack([f(t) for t in x])
    assert torch.allclose(f(x), loop, atol=1e-14)
    assert torch.allclose(torch.func.vmap(f)(x), loop, atol=1e-14)
    slopes = torch.stack([torch.func.grad(size)(t) for t in x])
    assert torch.allclose(torch.func.vmap(torch.func.grad(size))(x), slopes, atol=1e-14)
    hessian = torch.func.jacrev(torch.func.jacrev(size))(x[0])
    assert torch.allclose(torch.func.jacfwd(torch.func.jacrev(size))(x[0]), hessian, atol=1e-12)
    torch.compiler.reset()
    compiled = torch.compile(torch.func.vmap(f), fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), loop, atol=1e-14)
    leaf, other = (x.clone().requires_grad_() for _ in range(2))
    torch.compile(f, fullgraph=True, backend="aot_eager")(leaf).pow(3).sum().backward()
    f(other).pow(3).sum().backward()
    assert torch.allclose(leaf.grad, other.grad, atol=1e-13)


def test_what_is_not_finite_stays_in_its_matrix_and_ends():
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    one = torch.ones(4, dtype=torch.float64)
    alone = scaled_to_sums(x[2], one, one)
    x[0, 1, 1], x[1, 0, 0] = torch.nan, torch.inf
    p = scaled_to_sums(x, one, one)
    assert not torch.isfinite(p[:2]).any()
    assert torch.allclose(p[2], alone, atol=1e-14)


def test_the_sums_go_along_with_batches_under_vmap():
    rows, columns = sums(3, 3)
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    expected = scaled_to_sums(x, rows, columns)
    mapped = torch.func.vmap(scaled_to_sums, (0, None, None))
    assert torch.allclose(mapped(x, rows, columns), expected, atol=1e-14)
    compiled = torch.compile(mapped, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x, rows, columns), expected, atol=1e-14)


def test_the_operation_keeps_the_rules_of_torch_library():
    x, (rows, columns) = torch.randn(2, 3, 3, dtype=torch.float64), sums(3, 3)
    arguments = (x.requires_grad_(), rows, columns)
    torch.library.opcheck(torch.ops.constrainedparams.scaled_to_sums, arguments)
