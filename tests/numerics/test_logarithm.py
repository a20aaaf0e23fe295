"""The principal logarithm against SciPy, mpmath, and its exponential."""

import math

import mpmath
import pytest
import scipy.linalg
import torch

from constrainedparams.errors import ConstraintViolation
from constrainedparams.numerics.logarithm import logarithm

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)


def off(a, b):
    b = torch.as_tensor(b)
    return float(torch.linalg.norm(a - b) / torch.linalg.norm(b).clamp_min(1e-300))


def with_logarithm(kind, n, dtype):
    a = torch.randn(n, n, dtype=dtype)
    if kind == "orthogonal":
        return torch.linalg.matrix_exp(0.4 * (a - a.mH))
    if kind == "definite":
        return a @ a.mH + 1e-3 * torch.eye(n, dtype=dtype)
    if kind == "defective":
        return 3 * torch.eye(n, dtype=dtype) + torch.diag(torch.ones(n - 1, dtype=dtype), 1)
    if kind == "near the identity":
        return torch.eye(n, dtype=dtype) + 1e-7 * a
    return torch.linalg.matrix_exp(a / math.sqrt(n))


@DTYPES
@pytest.mark.parametrize(
    "kind", ["full", "orthogonal", "definite", "defective", "near the identity"]
)
@pytest.mark.parametrize("n", [1, 3, 10, 40])
def test_logarithms_are_those_of_scipy(n, kind, dtype):
    y = with_logarithm(kind, n, dtype)
    found = logarithm(y)
    assert found.dtype == dtype
    loose = kind in ("definite", "near the identity")  # where SciPy is off itself
    assert off(found, scipy.linalg.logm(y.numpy())) < (1e-8 if loose else 1e-11)
    assert off(torch.linalg.matrix_exp(found), y) < 1e-13 * n


@pytest.mark.parametrize("kind", ["full", "orthogonal", "definite", "defective"])
def test_logarithms_are_those_of_mpmath(kind):
    y = with_logarithm(kind, 5, torch.float64)
    with mpmath.workdps(50):
        exact = mpmath.logm(mpmath.matrix(y.tolist()))
        wanted = [[float(mpmath.re(exact[i, j])) for j in range(5)] for i in range(5)]
    wanted = torch.tensor(wanted, dtype=torch.float64)
    assert off(logarithm(y), wanted) <= 1e-15


@DTYPES
@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_the_condition_of_the_logarithm_takes_no_digits(condition, dtype):
    """Blocks [[d, m], [0, d]] turned by a matrix of Hadamard, which is exact."""
    half = 8
    turns = [-3 + 4j, 1, 4j, 3 - 4j] if dtype.is_complex else [1, 1]
    powers = torch.linspace(0, -math.log2(condition), half).round().double()
    d = torch.tensor(turns, dtype=dtype).repeat(half // len(turns)) * 2.0**powers
    m = d * torch.randint(8, 17, (half,)) / 16
    h = torch.from_numpy(scipy.linalg.hadamard(2 * half)).to(dtype)

    def turned(on, above):
        x = torch.diag(on.repeat(2))
        x[:half, half:] = torch.diag(above)
        return h @ x @ h / (2 * half)

    y = turned(d, m)
    assert off(logarithm(y), turned(d.log(), m / d)) <= 1e-15


def half_a_turn_but(share):
    a = torch.randn(4, 4, dtype=torch.float64)
    a = (a - a.mT) * ((1 - share) * math.pi / torch.linalg.matrix_norm(a - a.mT, 2))
    return torch.linalg.matrix_exp(a)


def far_from_normal(departure):
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    above = departure * torch.randn(6, 6, dtype=torch.float64).triu(1)
    return q @ (torch.diag(torch.linspace(1, 2, 6).double()) + above) @ q.mT


HARD = [(half_a_turn_but, share) for share in (0.1, 1e-2, 1e-4)]
HARD += [(far_from_normal, departure) for departure in (1.0, 5.0)]


@pytest.mark.parametrize(
    ("make", "number"), HARD, ids=[f"{make.__name__}-{number}" for make, number in HARD]
)
def test_hard_logarithms_are_those_of_mpmath(make, number):
    y = make(number)
    with mpmath.workdps(60):
        e, v = mpmath.eig(mpmath.matrix(y.tolist()))
        exact = v * mpmath.diag([mpmath.log(t) for t in e]) * mpmath.inverse(v)
        wanted = torch.tensor(exact.apply(mpmath.re).tolist(), dtype=torch.float64)
    assert off(logarithm(y), wanted) <= 1e-15


def test_small_logarithms_keep_their_digits():
    x = 1e-7 * torch.randn(5, 5, dtype=torch.float64)
    x = (1 + x) - 1  # what is left of it beside a 1
    x = torch.where(torch.eye(5, dtype=torch.bool), x, 1e-7 * torch.randn(5, 5).double())
    series = x - x @ x / 2 + x @ x @ x / 3
    assert off(logarithm(torch.eye(5).double() + x), series) < 1e-14


@DTYPES
def test_batches_are_taken_one_by_one(dtype):
    y = torch.stack([with_logarithm("full", 4, dtype) for _ in range(3)])
    assert torch.allclose(logarithm(y), torch.stack([logarithm(t) for t in y]), atol=1e-13)
    assert logarithm(y[:0]).shape == (0, 4, 4)


@pytest.mark.parametrize(
    "y",
    [torch.diag(torch.tensor([-1.0, -2.0, 1.0])), torch.zeros(2, 2), -torch.eye(2)],
    ids=["two negative", "zero", "half turn"],
)
def test_what_has_no_principal_logarithm_is_refused(y):
    with pytest.raises(ConstraintViolation, match="real and negative"):
        logarithm(y)
