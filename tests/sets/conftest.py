"""Solving a problem on a set the way a user does: an optimiser of torch on x."""

import pytest
import torch

from constrainedparams import Parametrized


@pytest.fixture
def minimize():
    """minimize(constraint, start, loss, steps): y with the least loss(y), by L-BFGS from start."""

    def run(constraint, start, loss, steps=300):
        p = Parametrized(start, constraint)
        optimizer = torch.optim.LBFGS(
            p.parameters(),
            max_iter=steps,
            tolerance_grad=1e-12,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure():
            optimizer.zero_grad()
            value = loss(p.y)
            value.backward()
            return value

        optimizer.step(closure)
        return p.y.detach()

    return run
