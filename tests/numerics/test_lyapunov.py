"""Equations of Lyapunov and Stein against SciPy and against their definition in 60 digits."""

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch

from constrainedparams.numerics.lyapunov import lyapunov, stein

GAPS = (1.0, 1e-2, 1e-6)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)


def off(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def matrix(kind, n, dtype):
    a = torch.randn(n, n, dtype=dtype)
    if kind == "triangular":
        return a.triu() + 3 * a.triu(1)
    if kind == "defective":
        return torch.eye(n, dtype=dtype) + torch.diag(torch.ones(n - 1, dtype=dtype), 1)
    return a


def right_hand_side(n, dtype):
    q = torch.randn(n, n, dtype=dtype)
    return q + q.mH


@DTYPES
@pytest.mark.parametrize("kind", ["full", "triangular", "defective"])
@pytest.mark.parametrize("radius", [0.0, 0.5, 0.99, 1 - 1e-6])
@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.filterwarnings("ignore:An ill-conditioned matrix")  # of the system that SciPy solves
def test_stein_is_as_near_to_the_definition_as_scipy(n, radius, kind, dtype):
    a = matrix(kind, n, dtype)
    a = a * (radius / torch.linalg.eigvals(a).abs().max())
    q = right_hand_side(n, dtype)
    with mpmath.workdps(60):
        p, power = mpmath.matrix(q.tolist()), mpmath.matrix(a.tolist())
        while mpmath.mnorm(power, "f") > mpmath.mpf(10) ** -50:
            p, power = p + power.transpose_conj() * p * power, power * power
        exact = np.array(p.tolist(), dtype=complex)
    peer = scipy.linalg.solve_discrete_lyapunov(a.mH.resolve_conj().numpy(), q.numpy())
    allowed = max(off(peer, exact), 10 * 2.2e-16 / (1 - radius))
    assert off(stein(a, q).numpy(), exact) <= 4 * allowed


@DTYPES
@pytest.mark.parametrize(
    ("kind", "n", "gap"),
    [
        *((kind, n, gap) for kind in ("full", "triangular") for n in (1, 3, 8, 30) for gap in GAPS),
        *(("defective", n, gap) for n in (1, 3, 8) for gap in GAPS[:2]),  # beyond, |P| is 1e60
    ],
)
def test_lyapunov_is_as_near_to_its_solution_as_scipy(kind, n, gap, dtype):
    """By what is left of the equation: |A P + P A^H + Q|."""
    a = matrix(kind, n, dtype)
    size = torch.linalg.matrix_norm(a)
    shift = torch.linalg.eigvals(a).real.max() + gap * size
    a = a - shift * torch.eye(n, dtype=dtype)
    q = right_hand_side(n, dtype)
    peer = scipy.linalg.solve_continuous_lyapunov(a.numpy(), -q.numpy())
    found = lyapunov(a, q)

    def residual(p):
        return float(np.linalg.norm(a.numpy() @ p + p @ a.mH.resolve_conj().numpy() + q.numpy()))

    scale = float(size) * np.linalg.norm(peer)
    assert torch.equal(found, found.mH)
    assert residual(found.numpy()) <= 4 * max(residual(peer), 4 * n * 2.2e-16 * scale)


def hard(kind, n, gap, disc, dtype):
    """A spectral radius of 1 - gap, or a largest real part of -gap |A|.

    Pairs: blocks [[d, m], [0, d]], turned, with a departure from normality of 1000, -gap itself.
    """
    if kind == "pairs":
        d = (1 - gap) * torch.linspace(-1, 1 if disc else 0, n // 2, dtype=dtype)
        d = d if disc else d - gap
        a = torch.diag(torch.cat((d, d)))
        a[: n // 2, n // 2 :] = 1e3 / (n // 2) ** 0.5 * torch.eye(n // 2)
        q = torch.linalg.qr(torch.randn(n, n, dtype=dtype))[0]
        return q @ a @ q.mH
    a = torch.randn(n, n, dtype=dtype)
    a = a.triu(1) / n**0.5 + torch.diag(torch.diagonal(a)) if kind == "triangular" else a
    values = torch.linalg.eigvals(a)
    if disc:
        return a * ((1 - gap) / values.abs().max())
    return a - (values.real.max() + gap * torch.linalg.matrix_norm(a, 2)) * torch.eye(n)


HARD = [(kind, n, gap) for kind in ("full", "triangular") for n, gap in ((32, 1e-2), (128, 1e-6))]
HARD += [("pairs", n, gap) for n, gap in ((8, 0.1), (32, 0.5), (128, 0.5))]


@DTYPES
@pytest.mark.parametrize("equation", ["stein", "lyapunov"])
@pytest.mark.parametrize(("kind", "n", "gap"), HARD)
@pytest.mark.filterwarnings("ignore:An ill-conditioned matrix")
def test_solution_and_residual_are_at_least_as_good_as_by_schur_forms(
    kind, n, gap, equation, dtype
):
    """Bartels and Stewart's, in SciPy; the truth is theirs, refined by residuals of 64 bits."""
    disc = equation == "stein"
    a, q = hard(kind, n, gap, disc, dtype), torch.eye(n, dtype=dtype)
    found = (stein if disc else lyapunov)(a, q).numpy()
    a, q = a.numpy(), q.numpy()
    long = np.clongdouble if dtype.is_complex else np.longdouble
    wide = a.astype(long)

    def solve(q):
        if disc:
            return scipy.linalg.solve_discrete_lyapunov(a.conj().T, q)
        return scipy.linalg.solve_continuous_lyapunov(a, -q)

    def residual(p):
        p = p.astype(long)
        return q - p + wide.conj().T @ p @ wide if disc else q + wide @ p + p @ wide.conj().T

    def size(x):
        return float(np.linalg.norm(x.astype(long)))

    peer = solve(q)
    true = peer.astype(long)
    for _ in range(4):
        true = true + solve(residual(true).astype(a.dtype))
    assert size(residual(true)) < 1e-17 * size(a) ** (2 if disc else 1) * size(true)
    assert size(found - true) <= max(size(peer - true), 4e-15 * size(true))
    least = 1e-16 * (size(a) ** 2 + 1 if disc else size(a)) * size(true)
    assert size(residual(found)) <= max(size(residual(peer)), least)


@DTYPES
def test_batches_are_solved_one_by_one(dtype):
    a = torch.randn(2, 3, 4, 4, dtype=dtype)
    disc = 0.5 * a / torch.linalg.matrix_norm(a, 2, keepdim=True)
    left = a - 10 * torch.eye(4, dtype=dtype)
    one = torch.eye(4, dtype=dtype)
    for solve, b in ((stein, disc), (lyapunov, left)):
        loop = torch.stack([torch.stack([solve(t, one) for t in row]) for row in b])
        assert torch.allclose(solve(b, one), loop, rtol=1e-12)


def test_what_has_no_solution_is_not_a_number_or_no_solution():
    one = torch.eye(3, dtype=torch.float64)
    assert not torch.isfinite(stein(1.5 * one, one)).all()
    p = lyapunov(one, one)
    assert not (torch.isfinite(p).all() and torch.linalg.eigvalsh(p)[0] > 0)


def test_single_precision_is_solved_in_double():
    a = 0.3 * torch.randn(4, 4)
    assert stein(a, torch.eye(4)).dtype == torch.float64
