"""Pyro: parameters on our sets, its constraints as ours."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import constrainedparams as cp


@pytest.fixture(autouse=True)
def clean():
    pyro.clear_param_store()
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("constraint", "shape"),
    [
        (cp.Orthogonal("polar"), (4, 2)),
        (cp.PositiveDefinite(), (3, 3)),
        (cp.SpectralBall(1.0), (3, 2)),
        (cp.Simplex(), (4,)),
    ],
    ids=repr,
)
def test_a_parameter_stays_on_the_set(constraint, shape):
    """pyro.param keeps the value it is given, and the steps of an optimiser stay on the set."""
    start, target = constraint.sample(shape), constraint.sample(shape)
    support = cp.to_distributions(constraint)
    assert torch.allclose(pyro.param("w", start, constraint=support), start, atol=1e-5)

    def model():
        pyro.factor("fit", -(pyro.param("w") - target).square().sum())

    elbo, losses = pyro.infer.Trace_ELBO(), []
    svi = pyro.infer.SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.1}), elbo)
    for _ in range(40):
        losses.append(svi.step())
        assert bool(constraint.contains(pyro.param("w").detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_the_nearest_frame():
    """The polar factor by SVI: the orthonormal frame with the largest inner product."""
    data = torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.1, 0.1]])
    support = cp.to_distributions(cp.Orthogonal("polar"))
    pyro.param("frame", torch.eye(3, 2).flip(-2), constraint=support)

    def model():
        pyro.factor("fit", (pyro.param("frame") * data).sum())

    elbo = pyro.infer.Trace_ELBO()
    svi = pyro.infer.SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.05}), elbo)
    for _ in range(300):
        svi.step()
    u, _, vh = torch.linalg.svd(data, full_matrices=False)
    assert torch.allclose(pyro.param("frame"), u @ vh, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("ordered_vector", cp.Ordered()),
        ("positive_ordered_vector", cp.PositiveOrdered()),
        ("sphere", cp.Sphere()),
        ("corr_matrix", cp.Correlation()),
        ("softplus_positive", cp.Positive()),
        ("softplus_lower_cholesky", cp.CholeskyFactor()),
        ("unit_lower_cholesky", cp.LowerTriangular(diagonal=1.0)),
        ("corr_cholesky", cp.CorrelationCholesky()),
    ],
)
def test_its_constraints_are_sets(name, ours):
    theirs = getattr(dist.constraints, name)
    assert cp.from_distributions(theirs) == ours
    shape = (3, 3) if ours.event_dim == 2 else (3,)
    assert bool(theirs.check(ours.sample(shape)).all())
