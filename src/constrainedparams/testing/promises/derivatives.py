"""What the derivatives promise: they are right, linear, finite, of the rank that is published."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from ... import errors
from ..case import Case
from .checking import (
    SCALES,
    PromiseBroken,
    State,
    close,
    eps,
    expect,
    random_x,
    real,
    sample,
    settings,
    split,
    starts,
)

__all__ = ["PROMISES"]


def _jacobian(
    case: Case,
    x: Tensor,
    state: State,
    dtype: torch.dtype,
    coordinates: Callable[[Tensor], Tensor] = real,
) -> Tensor:
    """The real Jacobian of f at x, as a matrix."""

    def f(raw: Tensor) -> Tensor:
        full = torch.view_as_complex(raw) if dtype.is_complex else raw
        return coordinates(case.constraint(full, **state))

    raw = real(x).clone()
    return torch.autograd.functional.jacobian(f, raw).reshape(-1, raw.numel())


def has_its_dimension(case: Case) -> None:
    """The Jacobian has rank ``dimension`` at random points and wherever registration may start."""
    for dtype in case.exact_dtypes:
        expected = case.constraint.dimension(case.shape, dtype)
        points = [(w, random_x(like, 0.5), s) for w, like, s in settings(case, dtype)]
        for name, x, state in points + list(starts(case, dtype)):
            rank = int(torch.linalg.matrix_rank(_jacobian(case, x, state, dtype), rtol=1e-10))
            text = f"{name}, {dtype}: Jacobian of rank {rank}, dimension {expected}"
            expect(rank == expected, text)


def is_one_to_one_as_published(case: Case) -> None:
    """Where ``one_to_one``: injective in the entries of x that f reads."""
    expect(isinstance(case.constraint.one_to_one, bool), "one_to_one is not a bool")
    expect(isinstance(case.constraint.smooth, bool), "smooth is not a bool")
    expect(bool(case.constraint.onto), "onto is empty")
    if not case.constraint.one_to_one:
        return
    for dtype in case.exact_dtypes:
        for where, like, state in settings(case, dtype):
            x = random_x(like, 0.5)
            read = (_jacobian(case, x, state, dtype) != 0).any(0)
            count, rank = int(read.sum()), case.constraint.dimension(case.shape, dtype)
            expect(count == rank, f"{where}: f reads {count} numbers for a dimension of {rank}")
            if not case.constraint.state_names:
                back, _ = split(case.constraint.right_inverse(case.constraint(x)))
                a, b = real(back).flatten()[read], real(x).flatten()[read]
                close(a, b, 1e4, "right_inverse(f(x)) - x")


def first_derivative_is_right(case: Case) -> None:
    """gradcheck at random points and at the default start."""
    _differences(case, torch.autograd.gradcheck, fast_mode=False)


def second_derivative_is_right(case: Case) -> None:
    """gradgradcheck at random points and at the default start."""
    # Along random directions: entry by entry the differences take most of the suite's time.
    _differences(case, torch.autograd.gradgradcheck, fast_mode=True)


def _differences(case: Case, check: Callable[..., bool], fast_mode: bool) -> None:
    for dtype in case.exact_dtypes:
        points = [(w, random_x(like, 0.5), s) for w, like, s in settings(case, dtype)]
        y = case.constraint.project(random_x(torch.empty(case.shape, dtype=dtype)))
        points.append(("project(noise)", *split(case.constraint.right_inverse(y))))
        for name, x, state in points:
            leaf = x.clone().requires_grad_()
            try:
                check(lambda t, s=state: case.constraint(t, **s), (leaf,), fast_mode=fast_mode)
            except GradcheckError as problem:
                raise PromiseBroken(f"{name}, {dtype}: {problem}") from problem


def gradients_are_finite(case: Case) -> None:
    """First and second derivatives are finite at the default start, the first at every scale.

    And as optimisers take them: torch's refuse a gradient that is conjugated lazily.
    """
    for dtype in case.all_dtypes:
        points = list(starts(case, dtype))
        for where, like, state in settings(case, dtype):
            points += [(f"{s:g} noise, {where}", random_x(like, s), state) for s in SCALES]
        for name, x, state in points:
            leaf = x.clone().requires_grad_()
            y = case.constraint(leaf, **state)
            weight = random_x(y, seed=1)
            (first,) = torch.autograd.grad(y, leaf, weight, create_graph=True)
            expect(torch.isfinite(first).all(), f"{name}, {dtype}: gradient is not finite")
            expect(not first.is_conj(), f"{name}, {dtype}: gradient is conjugated lazily")
            if "noise, " not in name and first.requires_grad:
                size = real(first).square().sum()
                (second,) = torch.autograd.grad(size, leaf, allow_unused=True)
                good = second is None or bool(torch.isfinite(second).all())
                expect(good, f"{name}, {dtype}: second derivative is not finite")


def pullback_is_linear(case: Case) -> None:
    """vjp(a g + b h) = a vjp(g) + b vjp(h), for gradients of any size: 1e-6 ... 1e6."""
    for dtype in (d for d in case.all_dtypes if eps(d) < 1e-4):
        for where, like, state in settings(case, dtype):
            leaf = random_x(like).requires_grad_()
            y = case.constraint(leaf, **state)
            g, h = random_x(y, seed=1), random_x(y, seed=2)

            def pull(v: Tensor, y: Tensor = y, leaf: Tensor = leaf) -> Tensor:
                return torch.autograd.grad(y, leaf, v, retain_graph=True)[0]

            close(pull(2 * g - 3 * h), 2 * pull(g) - 3 * pull(h), 128, f"{where}: sum of gradients")
            for size in (1e-6, 1e6):
                text = f"{where}: gradient of size {size:g}"
                close(pull(size * g) / size, pull(g), 128, text)


def log_abs_det_jacobian_is_right(case: Case) -> None:
    """Absent (ConstraintError), or the log-determinant of the Jacobian in the row's coordinates."""
    for dtype in case.exact_dtypes:
        x = random_x(split(case.constraint.right_inverse(sample(case, dtype)))[0], 0.5)
        try:
            found = case.constraint.log_abs_det_jacobian(x)
        except errors.ConstraintError:
            expect(case.coordinates is None, "the row gives coordinates, the set no log |det J|")
            return
        coordinates = case.coordinates
        expect(coordinates is not None, "the row gives no coordinates for log |det J|")
        assert coordinates is not None
        full = _jacobian(case, x, {}, dtype, coordinates)
        square = full[:, (full != 0).any(0)]
        close(found.sum(), torch.linalg.slogdet(square)[1], 1e4, f"log |det J|, {dtype}")


PROMISES = (
    has_its_dimension,
    is_one_to_one_as_published,
    first_derivative_is_right,
    second_derivative_is_right,
    gradients_are_finite,
    pullback_is_linear,
    log_abs_det_jacobian_is_right,
)
