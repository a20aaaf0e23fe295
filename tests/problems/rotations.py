"""Orthogonal and unitary matrices: eigenvectors, Procrustes, ICA, rotation averages, synthesis."""

import numpy as np
import scipy.linalg
import torch
from scipy.spatial.transform import Rotation
from sklearn.datasets import load_digits
from sklearn.decomposition import FastICA

from constrainedparams import Grassmann, Orthogonal, Rotation3D, SpecialOrthogonal, Unitary

from .problem import Problem, optimizer

F64 = torch.float64


def _symmetric(n: int, seed: int) -> np.ndarray:
    a = np.random.default_rng(seed).standard_normal((n, n))
    return (a + a.T) / 2


def eigenvectors() -> Problem:
    """The largest k eigenvalues are the maximum of tr(Y^T A Y) (Ky Fan)."""
    a = _symmetric(40, 0)
    A = torch.from_numpy(a)
    return Problem(
        Grassmann(),
        torch.eye(40, 3, dtype=F64),
        lambda y: -(y * (A @ y)).sum(),
        np.linalg.eigvalsh(a)[-3:].sum(),
        quantity=lambda y: (y * (A @ y)).sum(),
        retract_every=1,
    )


def principal_components() -> Problem:
    """Digits: the span of the leading components, by the singular values of SciPy."""
    data = load_digits().data
    data = data - data.mean(0)
    scatter = data.T @ data / len(data)
    S = torch.from_numpy(scatter)
    vectors = scipy.linalg.svd(data, full_matrices=False)[2][:2]
    return Problem(
        Orthogonal("polar"),
        torch.eye(64, 2, dtype=F64) + 0.1 * torch.ones(64, 2, dtype=F64),
        lambda y: -(y * (S @ y)).sum() / 100,
        vectors.T @ vectors,
        quantity=lambda y: y @ y.T,
        atol=1e-5,
        retract_every=5,
    )


def procrustes() -> Problem:
    """The rotation that carries one cloud of points to another."""
    rng = np.random.default_rng(1)
    a = rng.standard_normal((50, 8))
    b = a @ scipy.stats.special_ortho_group.rvs(8, random_state=1) + 0.1 * rng.standard_normal(
        (50, 8)
    )
    u, _, vt = scipy.linalg.svd(a.T @ b)
    signs = np.ones(8)
    signs[-1] = np.linalg.det(u @ vt)
    A, B = torch.from_numpy(a), torch.from_numpy(b)
    return Problem(
        SpecialOrthogonal(),
        torch.eye(8, dtype=F64),
        lambda y: (A @ y - B).square().mean(),
        (u * signs) @ vt,
        retract_every=2,
    )


def rotation_average() -> Problem:
    """The chordal mean of rotations, by SciPy."""
    turns = Rotation.random(20, random_state=2)
    near = Rotation.from_rotvec(0.4 * turns.as_rotvec()) * Rotation.from_rotvec([0.3, -2.0, 0.5])
    M = torch.from_numpy(near.as_matrix())
    return Problem(
        Rotation3D(),
        torch.eye(3, dtype=F64),
        lambda y: (y - M).square().sum(),
        near.mean().as_matrix(),
    )


def unitary_synthesis() -> Problem:
    """A product of gates is recovered up to a global phase: fidelity 1."""
    target = torch.from_numpy(scipy.stats.unitary_group.rvs(4, random_state=4))

    def fidelity(y: torch.Tensor) -> torch.Tensor:
        return (target.conj() * y).sum().abs() / 4

    return Problem(
        Unitary(),
        torch.eye(4, dtype=torch.complex128),
        lambda y: 1 - fidelity(y),
        1.0,
        quantity=lambda y: fidelity(y),
        make=optimizer("Adam", lr=0.05),
        steps=300,
    )


def independent_components() -> Problem:
    """Whitened digits: the log-cosh contrast that FastICA of scikit-learn stops at, or better."""
    rng = np.random.default_rng(3)
    data = load_digits().data
    white = data - data.mean(0)
    u = scipy.linalg.svd(white, full_matrices=False)[0][:, :4] * np.sqrt(len(white))
    start = scipy.stats.special_ortho_group.rvs(4, random_state=rng)
    ica = FastICA(whiten=False, fun="logcosh", w_init=start, tol=1e-10, max_iter=2000)
    ica.fit(u)
    W = torch.from_numpy(u)

    def contrast(y: torch.Tensor) -> torch.Tensor:
        z = W @ y.mT
        return (torch.logaddexp(z, -z) - np.log(2)).mean(0)

    gauss = 0.3745672075  # E log cosh of a standard normal
    return Problem(
        Orthogonal(),
        torch.from_numpy(start),
        lambda y: -(contrast(y) - gauss).abs().sum(),
        float((contrast(torch.from_numpy(ica.components_)) - gauss).abs().sum()),
        quantity=lambda y: float((contrast(y) - gauss).abs().sum()),
        retract_every=2,
    )


PROBLEMS = {
    f.__name__: f
    for f in (
        eigenvectors,
        principal_components,
        procrustes,
        rotation_average,
        unitary_synthesis,
        independent_components,
    )
}
