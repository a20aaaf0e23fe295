"""Symmetric and skew-symmetric matrices: closed forms, complex ones, and linear least squares."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from constrainedparams import Parametrized, Skew, Symmetric, register_constrained_parameter
from constrainedparams.errors import ConstraintViolation, OptionError, ShapeError

SETS = pytest.mark.parametrize(
    ("constraint", "sign"), [(Symmetric(), 1), (Skew(), -1)], ids=["symmetric", "skew"]
)
ALL = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


@SETS
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_the_map_entry_by_entry(constraint, sign, dtype):
    x = torch.randn(2, 4, 4, dtype=dtype)
    y = constraint(x).numpy()
    for b in range(2):
        for i in range(4):
            for j in range(4):
                expected = (complex(x[b, i, j]) + sign * complex(x[b, j, i])) / 2
                assert abs(y[b, i, j] - expected) < 1e-15


@SETS
@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e38])
def test_the_symmetry_is_exact_in_every_dtype(constraint, sign, dtype, size):
    if dtype == torch.float16:
        size = min(max(size, 1e-4), 2e4)
    x = (size * torch.empty(5, 5).uniform_(2.5, 3)).to(dtype)
    compiled = torch.compile(constraint.forward, backend="aot_eager")
    for y in (constraint(x), compiled(x)):
        assert torch.equal(y, sign * y.mT)
        assert float(constraint.residual(y)) == 0
        assert y.dtype == dtype and bool(torch.isfinite(y).all())


@SETS
def test_complex_matrices_are_transposed_not_conjugated(constraint, sign):
    h = torch.tensor([[0, 1j], [-1j, 0]], dtype=torch.complex64)  # Hermitian, and skew-symmetric
    assert bool(constraint.contains(h)) is (sign < 0)
    assert bool(constraint.contains(1j * h.abs() + 0)) is (sign > 0)


@SETS
def test_gradient_descent_moves_along_the_set_with_one_step_length(constraint, sign):
    start = constraint.sample((4, 4), dtype=torch.float64)
    w = Parametrized(start, constraint)
    G = torch.randn(4, 4, dtype=torch.float64)
    optimizer = torch.optim.SGD(w.parameters(), lr=0.1)
    (w.y * G).sum().backward()
    optimizer.step()
    # The projected gradient: the nearest matrix of the set to G.
    expected = start.numpy() - 0.1 * (G.numpy() + sign * G.numpy().T) / 2
    assert np.abs(w.y.detach().numpy() - expected).max() < 1e-15


@SETS
@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (1, 2, 3)], ids=str)
def test_rectangular_matrices_are_refused_with_a_remedy(constraint, sign, shape):
    with pytest.raises(ShapeError, match=r"expected square matrices\. Read it as square blocks"):
        constraint(torch.zeros(shape))
    with pytest.raises(ShapeError, match="at least two axes"):
        constraint(torch.zeros(3))


def test_a_rectangular_weight_as_square_blocks():
    constraint = Skew(view="(heads n) m -> heads n m", sizes={"heads": 3})
    layer = register_constrained_parameter(nn.Linear(2, 6), "weight", constraint)
    for block in layer.weight.detach().reshape(3, 2, 2):
        assert torch.equal(block, -block.T)
    with pytest.raises(OptionError, match="Give view= too"):
        Symmetric(sizes={"heads": 3})


def test_kernels_of_a_convolution():
    constraint = Symmetric(view="o i h w -> o i h w")
    layer = register_constrained_parameter(nn.Conv2d(2, 3, 3), "weight", constraint)
    assert torch.equal(layer.weight, layer.weight.transpose(2, 3))
    assert constraint.dimension((3, 2, 3, 3)) == 36


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_dimensions(n):
    assert Symmetric().dimension((n, n)) - Skew().dimension((n, n)) == n
    assert Symmetric().dimension((n, n)) + Skew().dimension((n, n)) == n * n
    assert Skew().dimension((4, n, n), torch.complex64) == 8 * Skew().dimension((n, n))


@SETS
@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3, 3)], ids=str)
def test_empty_matrices_are_members(constraint, sign, shape):
    y = constraint(torch.zeros(shape))
    assert y.shape == shape
    assert bool(constraint.contains(y).all())


@SETS
def test_the_residual_is_relative(constraint, sign):
    y = constraint.sample((6, 6), dtype=torch.float64)
    noise = torch.randn(6, 6, dtype=torch.float64)
    wrong = y + 1e-3 * (noise - sign * noise.T)
    expected = np.linalg.norm(wrong - sign * wrong.T) / np.linalg.norm(wrong) / 2
    for size in (1e-200, 1.0, 1e200):
        assert float(constraint.residual(size * wrong)) == pytest.approx(expected, rel=1e-12)
        assert bool(constraint.contains(size * y))
        with pytest.raises(ConstraintViolation, match="Project it first"):
            constraint.right_inverse(size * wrong)


@pytest.mark.parametrize("n", [10, 500])
def test_a_product_with_its_transpose_counts_as_symmetric(n):
    A = torch.randn(n, n)
    assert bool(Symmetric().contains(A @ A.T))
    rounded = Symmetric()(Symmetric().right_inverse(A @ A.T))
    assert torch.equal(rounded, rounded.T)
    assert not bool(Skew().contains(A @ A.T))


@SETS
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_the_nearest_matrix_of_the_set_is_a_closed_form(constraint, sign, dtype):
    A = torch.randn(5, 5, dtype=dtype)
    w = Parametrized(torch.zeros(5, 5, dtype=dtype), constraint)
    optimizer = torch.optim.SGD(w.parameters(), lr=0.25)
    for _ in range(60):
        optimizer.zero_grad()
        (w.y - A).abs().square().sum().backward()
        optimizer.step()
    expected = (A.numpy() + sign * A.numpy().T) / 2
    assert np.abs(w.y.detach().numpy() - expected).max() < 1e-14


@SETS
def test_least_squares_over_the_set_solve_a_lyapunov_equation(constraint, sign):
    # min |y X - B|_F over y = sign y^T: y XX^T + XX^T y = B X^T + sign X B^T.
    X, B = (torch.randn(4, 12, dtype=torch.float64) for _ in range(2))
    gram, cross = (X @ X.T).numpy(), (B @ X.T).numpy()
    expected = scipy.linalg.solve_continuous_lyapunov(gram, cross + sign * cross.T)
    w = Parametrized(torch.zeros(4, 4, dtype=torch.float64), constraint)
    rate = 0.5 / np.linalg.eigvalsh(gram)[-1]
    optimizer = torch.optim.SGD(w.parameters(), lr=rate, momentum=0.5)
    for _ in range(600):
        optimizer.zero_grad()
        (w.y @ X - B).square().sum().backward()
        optimizer.step()
    assert np.abs(w.y.detach().numpy() - expected).max() < 1e-12
