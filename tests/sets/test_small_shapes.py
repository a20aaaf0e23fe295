"""Every set in the smallest shapes: batches of none, 1 x 1, and 0 x 0 where it has that."""

import contextlib

import pytest
import torch

from constrainedparams import ConstraintError, ShapeError
from constrainedparams.testing import ROWS

SMALL = ("none", (1, 1), (0, 0), (1, 3), (3, 1))
PLAIN = [row for row in ROWS if row.batched and row.constraint.view is None]


def taken(constraint, shape):
    try:
        constraint.check_shape(shape)
    except ShapeError:
        return False
    return True


@pytest.mark.parametrize("row", PLAIN, ids=str)
def test_every_method_takes_every_shape_that_is_not_refused(row):
    c = row.constraint
    shapes = [(0, *row.shape) if small == "none" else small for small in SMALL]
    assert taken(c, shapes[0])
    for shape in filter(lambda shape: taken(c, shape), shapes):
        y = c.sample(shape, generator=torch.Generator().manual_seed(0))
        assert tuple(y.shape) == shape
        for point in (y, c.project(torch.randn(shape)), c.project(torch.zeros(shape))):
            assert point.shape == y.shape
            assert bool(c.contains(point).all())
        found = c.right_inverse(y)
        x, state = found if isinstance(found, tuple) else (found, {})
        back = c(x.requires_grad_(), **state)
        torch.testing.assert_close(back.detach(), y, atol=1e-5, rtol=1e-5)
        (slope,) = torch.autograd.grad(back.sum(), x)
        assert slope.shape == x.shape
        assert bool(torch.isfinite(slope).all())
        assert c.retract(x, **state)[0].shape == x.shape
        assert c.dimension(shape) >= 0
        for method in (c.log_abs_det_jacobian, c.factors):
            with contextlib.suppress(ConstraintError):  # of a set that has none
                method(x, **state)
