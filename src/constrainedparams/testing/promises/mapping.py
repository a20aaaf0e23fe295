"""What f promises: it lands in the set, and its right inverse leads back."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ... import errors
from ...attach.registration import register_constrained_parameter
from ..case import Case
from .checking import (
    SCALES,
    close,
    eps,
    expect,
    points_of,
    random_x,
    sample,
    settings,
    split,
)

__all__ = ["PROMISES"]


def lands_in_the_set(case: Case) -> None:
    """y is finite and in the set for raw values of every scale, and keeps the dtype of x."""
    for dtype in case.all_dtypes:
        for scale in SCALES:
            for where, like, state in settings(case, dtype):
                y = case.constraint(random_x(like, scale), **state)
                what = f"x of scale {scale:g}, {dtype}, {where}"
                expect(y.dtype == dtype, f"{what}: y is {y.dtype}")
                expect(torch.isfinite(y).all(), f"{what}: y is not finite")
                far = float(case.constraint.residual(y).max())
                allowed = case.constraint.tolerance(y)
                inside = case.constraint.contains(y).all()
                expect(inside, f"{what}: {far:.3g} off the set, {allowed:.3g} is rounding")


def right_inverse_is_right(case: Case) -> None:
    """f(right_inverse(y)) = y to rounding, for samples, awkward points and values of f."""
    for dtype in case.all_dtypes:
        points = list(points_of(case, dtype))
        for _, like, state in settings(case, dtype):
            points += [
                (f"f({s:g} noise)", case.constraint(random_x(like, s), **state)) for s in (0.1, 1)
            ]
        for name, y in points:
            x, state = split(case.constraint.right_inverse(y))
            expect(x.dtype == dtype, f"{name}: x is {x.dtype} for a y of {dtype}")
            expect(x.is_contiguous(), f"{name}: x is not contiguous")
            expect(x.data_ptr() != y.data_ptr(), f"{name}: x shares the memory of y")
            shape = case.constraint.unconstrained_shape(tuple(y.shape))
            expect(tuple(x.shape) == shape, f"{name}: x has shape {tuple(x.shape)}, not {shape}")
            expect(set(state) == set(case.constraint.state_names), f"{name}: state is {set(state)}")
            for value in state.values():
                expect(value.shape == y.shape, f"{name}: state is not in the shape of y")
                expect(eps(value.dtype) < 1e-4, f"{name}: state is {value.dtype}")
            close(case.constraint(x, **state), y, 64, f"{name}: f(right_inverse(y)) - y")


def is_kept_by_a_layer(case: Case) -> None:
    """Registration keeps a value that is on the set; so does a copy in another precision."""
    for dtype in case.all_dtypes:
        for name, y in points_of(case, dtype):
            layer = nn.Module()
            layer.weight = nn.Parameter(y.clone())
            register_constrained_parameter(layer, "weight", case.constraint, project=False)
            close(layer.weight.detach(), y, 64, f"{name} ({dtype}): the value of a layer - y")
            if dtype == torch.float32:
                wide = copy.deepcopy(layer).double()
                read: Tensor = getattr(wide, "weight")  # noqa: B009
                close(read.detach().to(dtype), y, 256, f"{name}: its copy in double precision - y")


def retract_keeps_the_value(case: Case) -> None:
    """retract changes coordinates, not y, and gives back x and state in the same shapes."""
    for dtype in case.all_dtypes:
        for where, like, state in settings(case, dtype):
            x = random_x(like, 0.5)
            y = case.constraint(x, **state)
            moved, after = case.constraint.retract(x, **state)
            expect(moved.shape == x.shape and moved.dtype == dtype, f"{where}: another kind of x")
            close(case.constraint(moved, **after), y, 64, f"{where}: y after retract")


def decays_to_its_target(case: Case) -> None:
    """f(0) is the published decay target."""
    expect(bool(case.constraint.decay_target), "decay_target is empty")
    for dtype in case.all_dtypes:
        y = sample(case, dtype)
        x, state = split(case.constraint.right_inverse(y))
        reached = case.constraint(torch.zeros_like(x), **state)
        expected = case.decay_target(state.get("base", y).to(dtype))
        close(reached, expected.to(dtype), 64, "f(0) - decay target")


_PRODUCTS: dict[tuple[str, ...], Callable[..., Tensor]] = {
    ("cholesky",): lambda l: l @ l.mH,
    ("root",): lambda z: z @ z.mH,
    ("q", "r"): lambda q, r: q @ r,
    ("left", "right"): lambda left, right: left @ right,
    ("q", "core"): lambda q, core: q @ core @ q.mH,
    ("left", "core", "right"): lambda left, core, right: left @ core @ right.mH,
}


def factors_multiply_to_y(case: Case) -> None:
    """Absent (ConstraintError), or matrices whose product is y, and the logarithm of |det y|."""
    for dtype in case.all_dtypes:
        for where, like, state in settings(case, dtype):
            x = random_x(like)
            try:
                found = case.constraint.factors(x, **state)
            except errors.ConstraintError:
                return
            y = case.constraint._read(case.constraint(x, **state))
            logdet = found.pop("logdet", None)
            make = _PRODUCTS.get(tuple(found))
            expect(make, f"factors are {', '.join(found)}; known are {sorted(_PRODUCTS)}")
            assert make is not None
            units = 64 * max(case.shape[-2:])
            close(make(*found.values()), y, units, f"product of the factors - y, {where}, {dtype}")
            if logdet is not None:
                exact = torch.linalg.slogdet(y.to(torch.promote_types(dtype, torch.float64)))[1]
                rough = float(
                    torch.linalg.cond(y.to(torch.promote_types(dtype, torch.float64))).max()
                )
                close(logdet, exact.to(logdet.dtype), 64 * rough, f"logdet, {where}, {dtype}")


PROMISES = (
    lands_in_the_set,
    right_inverse_is_right,
    is_kept_by_a_layer,
    retract_keeps_the_value,
    decays_to_its_target,
    factors_multiply_to_y,
)
