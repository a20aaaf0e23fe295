"""What every way of calling promises: batches, transforms, compilers, dtypes, values."""

import contextlib
import copy
import dataclasses
import pickle
from typing import Any

import torch
from torch import Tensor

from ... import errors, sets
from ..case import Case
from .checking import (
    State,
    close,
    expect,
    raises,
    random_x,
    real,
    sample,
    settings,
    split,
)

__all__ = ["PROMISES"]


def batch_is_its_elements(case: Case) -> None:
    """Every method gives for a batch what it gives for its elements."""
    if not case.batched:
        return
    c = case.constraint
    for dtype in case.all_dtypes:
        y = sample(case, dtype, (2, 3))
        x, state = split(c.right_inverse(y))
        raw = random_x(x, 0.5)
        noise = random_x(y, 2.0)
        batched = (c(raw, **state), c.residual(noise), c.project(noise))
        for i in range(2):
            for j in range(3):
                own = {k: v[i, j] for k, v in state.items()}
                single = (c(raw[i, j], **own), c.residual(noise[i, j]), c.project(noise[i, j]))
                for name, a, b in zip(("f", "residual", "project"), batched, single, strict=True):
                    close(a[i, j], b, 128, f"{name} of a batch, {dtype}")
        close(c(x, **state), y, 64, f"right_inverse of a batch, {dtype}")


def works_under_vmap(case: Case) -> None:
    """torch.func.vmap over x (and over its gradient) gives what a loop gives."""
    for dtype in case.all_dtypes:
        for where, like, state in settings(case, dtype):
            xs = torch.stack([random_x(like, 0.5, seed=s) for s in range(3)])

            def f(x: Tensor, state: State = state) -> Tensor:
                return case.constraint(x, **state)

            def size(x: Tensor) -> Tensor:
                return (real(f(x)) ** 3).sum()

            loop = torch.stack([f(x) for x in xs])
            close(torch.func.vmap(f)(xs), loop, 128, f"vmap, {where}")
            if not dtype.is_complex:
                slope = torch.func.grad(size)
                loop = torch.stack([slope(x) for x in xs])
                close(torch.func.vmap(slope)(xs), loop, 512, f"vmap of grad, {where}")


def compiled_equals_eager(case: Case) -> None:
    """torch.compile(fullgraph=True): value and gradient are those of eager mode."""
    dtypes = [d for d in case.all_dtypes if d in (torch.float32, torch.complex64)]
    for dtype in dtypes:
        for where, like, state in settings(case, dtype):
            torch.compiler.reset()

            def f(x: Tensor, state: State = state) -> Tensor:
                return case.constraint(x, **state)

            compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
            a, b = (random_x(like, 0.5).requires_grad_() for _ in range(2))
            y, eager = compiled(a), f(b)
            close(y.detach(), eager.detach(), 64, f"compiled value, {where}, {dtype}")
            weight = random_x(eager, seed=1)
            y.backward(weight)
            eager.backward(weight)
            assert a.grad is not None
            assert b.grad is not None
            close(a.grad, b.grad, 128, f"compiled gradient, {where}, {dtype}")


def leaves_its_inputs_alone(case: Case) -> None:
    """No method writes to x, y or the state it is given."""
    c = case.constraint
    for dtype in case.all_dtypes:
        y = sample(case, dtype)
        x, state = split(c.right_inverse(y))
        given = [x, y, *state.values()]
        before = [(t.clone(), t._version) for t in given]
        c(x, **state)
        for method in (c.right_inverse, c.residual, c.contains, c.project, c.tolerance):
            method(y)
        c.retract(x, **state)
        for t, (value, version) in zip(given, before, strict=True):
            expect(torch.equal(t, value) and t._version == version, f"an input changed, {dtype}")


def ignores_autocast(case: Case) -> None:
    """Under bfloat16 autocast f is computed as without."""
    for _, like, state in settings(case, torch.float32):
        x = random_x(like)
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            y = case.constraint(x, **state)
        expect(torch.equal(y, case.constraint(x, **state)), "autocast changed the value of f")


def ignores_the_default_device(case: Case) -> None:
    """torch.set_default_device changes nothing: all is made where x or y is."""
    c = case.constraint
    y = sample(case, torch.float32)
    x, state = split(c.right_inverse(y))
    weight = random_x(c(x, **state), seed=1)

    def all_of(c: Any) -> list[Tensor]:
        raw = x.clone().requires_grad_()
        value = c(raw, **state)
        (slope,) = torch.autograd.grad(value, raw, weight)
        c.dimension(case.shape)
        found, kept = split(c.right_inverse(y))
        moved, after = c.retract(x, **state)
        draw = torch.Generator(y.device).manual_seed(0)
        drawn = c.sample(case.shape, device=y.device, generator=draw)
        made = [*kept.values(), moved, *after.values(), drawn]
        made += [c.residual(y), c.contains(y), c.project(weight)]
        with contextlib.suppress(errors.ConstraintError):  # of a set that has none
            made.append(c.log_abs_det_jacobian(x, **state))
        with contextlib.suppress(errors.ConstraintError):
            made.extend(c.factors(x, **state).values())
        return [value, slope, found, *made]

    expected = all_of(c)
    with torch.device("meta"):
        got = all_of(dataclasses.replace(c))
    for a, b in zip(got, expected, strict=True):
        expect(a.device == b.device, f"a tensor was made on the default device, {a.device}")
        expect(torch.equal(a.detach(), b.detach()), "the default device changed a value")


def refuses_wrong_shapes_and_dtypes(case: Case) -> None:
    """ShapeError for the row's bad shapes, DtypeError for integers; foreign state is refused."""
    c = case.constraint
    for shape in case.bad_shapes:
        for method in (c.check_shape, c.dimension, c.unconstrained_shape, c.sample):
            with raises(errors.ShapeError, f"{method.__name__} of shape {shape}"):
                method(shape)
        for on_tensor in (c.right_inverse, c.residual, c.project, c.contains):
            with raises(errors.ShapeError, f"{on_tensor.__name__} of shape {shape}"):
                on_tensor(torch.zeros(shape))
    with raises(errors.DtypeError, "an integer tensor"):
        c(torch.zeros(case.shape, dtype=torch.int64))
    if not c.has_complex:
        with raises(errors.DtypeError, "a complex tensor"):
            c(torch.zeros(case.shape, dtype=torch.complex64))
    with raises(errors.ConstraintError, "state of an unknown name"):
        c(sample(case, torch.float32), no_such_state=torch.zeros(case.shape))


def rounds_half_precision(case: Case) -> None:
    """In bfloat16 f is the float32 value, rounded."""
    if torch.bfloat16 not in case.dtypes:
        return
    for _, like, state in settings(case, torch.bfloat16):
        x = random_x(like)
        y = case.constraint(x, **state)
        expected = case.constraint(x.float(), **state).to(torch.bfloat16)
        expect(torch.equal(y, expected), "bfloat16 is not rounded float32")


def is_a_value(case: Case) -> None:
    """Copies and pickles compare and hash equal; the set is immutable; repr rebuilds it."""
    c = case.constraint
    for other in (copy.copy(c), copy.deepcopy(c), pickle.loads(pickle.dumps(c))):
        expect(other == c and hash(other) == hash(c), f"a copy of {c!r} is not equal to it")
    names = {name: getattr(sets, name) for name in sets.__all__}
    rebuilt = eval(repr(c), {**names, type(c).__name__: type(c), "tensor": torch.tensor})
    expect(rebuilt == c and hash(rebuilt) == hash(c), f"repr {c!r} rebuilds another set")
    with raises(AttributeError, "a new attribute"):
        c.no_such_option = 1  # type: ignore[attr-defined]


PROMISES = (
    batch_is_its_elements,
    works_under_vmap,
    compiled_equals_eager,
    leaves_its_inputs_alone,
    ignores_autocast,
    ignores_the_default_device,
    refuses_wrong_shapes_and_dtypes,
    rounds_half_precision,
    is_a_value,
)
