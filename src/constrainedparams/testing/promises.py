"""The promises of the contract, one function for each."""

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from .. import errors, sets
from ..attach.registration import register_constrained_parameter
from ..sets.contract import Constraint
from .case import Case

__all__ = ["PROMISES", "PromiseBroken"]

Promise = Callable[[Case], None]
State = dict[str, Tensor]
SCALES = (0.0, 1e-3, 0.1, 1.0, 10.0, 100.0)
PROMISES: list[Promise] = []


class PromiseBroken(AssertionError):
    """A set does not keep a promise of the contract."""


def promise(function: Promise) -> Promise:
    PROMISES.append(function)
    return function


def _expect(holds: Any, message: str) -> None:
    if not bool(holds):
        raise PromiseBroken(message)


@contextmanager
def _raises(kind: type[Exception], what: str) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise PromiseBroken(f"{what} was accepted; expected {kind.__name__}")


def _eps(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).eps)


def _close(a: Tensor, b: Tensor, units: float, what: str) -> None:
    """``a`` = ``b`` up to ``units`` rounding units of the larger of 1 and the largest entry."""
    _expect(a.shape == b.shape, f"{what}: shape {tuple(a.shape)} instead of {tuple(b.shape)}")
    if a.numel() == 0:
        return
    gap = float((a - b).abs().max())
    bound = units * _eps(a.dtype) * max(1.0, float(b.abs().max()))
    _expect(gap <= bound, f"{what}: off by {gap:.3g}, allowed {bound:.3g} ({a.dtype})")


def _split(found: Tensor | tuple[Tensor, State]) -> tuple[Tensor, State]:
    return found if isinstance(found, tuple) else (found, {})


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _sample(case: Case, dtype: torch.dtype, lead: tuple[int, ...] = (), seed: int = 0) -> Tensor:
    shape = (*lead, *case.shape)
    return case.constraint.sample(shape, dtype=dtype, generator=_generator(seed))


def _raw(like: Tensor, scale: float = 1.0, seed: int = 0) -> Tensor:
    """A random x of the shape and dtype of ``like``."""
    wide = like.dtype if like.dtype.is_complex or _eps(like.dtype) < 1e-4 else torch.float32
    draw = torch.randn(like.shape, dtype=wide, generator=_generator(seed))
    return (scale * draw).to(like.dtype)


def _points(case: Case, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Members of the set: samples, the awkward ones, and where registration may put a layer."""
    yield "a sample", _sample(case, dtype)
    for name, make in case.awkward.items():
        yield name, make(torch.empty(case.shape, dtype=dtype))
    zeros = torch.zeros(case.shape, dtype=dtype)
    yield "project(0)", case.constraint.project(zeros)
    yield "project(noise)", case.constraint.project(_raw(zeros))


def _starts(case: Case, dtype: torch.dtype) -> Iterator[tuple[str, Tensor, State]]:
    """x and state as registration makes them."""
    for name, y in _points(case, dtype):
        yield name, *_split(case.constraint.right_inverse(y))


def _settings(case: Case, dtype: torch.dtype) -> Iterator[tuple[str, Tensor, State]]:
    """A template of x, with the state of a sample and, where there is state, without."""
    x, state = _split(case.constraint.right_inverse(_sample(case, dtype)))
    yield "state of a sample", x, state
    if state:
        yield "no state", x, {}


# the map ----------------------------------------------------------------------------------------


@promise
def lands_in_the_set(case: Case) -> None:
    """y is finite and in the set for raw values of every scale, and keeps the dtype of x."""
    for dtype in case.all_dtypes:
        for scale in SCALES:
            for where, like, state in _settings(case, dtype):
                y = case.constraint(_raw(like, scale), **state)
                what = f"x of scale {scale:g}, {dtype}, {where}"
                _expect(y.dtype == dtype, f"{what}: y is {y.dtype}")
                _expect(torch.isfinite(y).all(), f"{what}: y is not finite")
                far = float(case.constraint.residual(y).max())
                allowed = case.constraint.tolerance(y)
                inside = case.constraint.contains(y).all()
                _expect(inside, f"{what}: {far:.3g} off the set, {allowed:.3g} is rounding")


@promise
def right_inverse_is_right(case: Case) -> None:
    """f(right_inverse(y)) = y to rounding, for samples, awkward points and values of f."""
    for dtype in case.all_dtypes:
        points = list(_points(case, dtype))
        for _, like, state in _settings(case, dtype):
            points += [
                (f"f({s:g} noise)", case.constraint(_raw(like, s), **state)) for s in (0.1, 1)
            ]
        for name, y in points:
            x, state = _split(case.constraint.right_inverse(y))
            _expect(x.dtype == dtype, f"{name}: x is {x.dtype} for a y of {dtype}")
            _expect(x.is_contiguous(), f"{name}: x is not contiguous")
            _expect(x.data_ptr() != y.data_ptr(), f"{name}: x shares the memory of y")
            shape = case.constraint.unconstrained_shape(tuple(y.shape))
            _expect(tuple(x.shape) == shape, f"{name}: x has shape {tuple(x.shape)}, not {shape}")
            _expect(
                set(state) == set(case.constraint.state_names), f"{name}: state is {set(state)}"
            )
            for value in state.values():
                _expect(value.shape == y.shape, f"{name}: state is not in the shape of y")
                _expect(_eps(value.dtype) < 1e-4, f"{name}: state is {value.dtype}")
            _close(case.constraint(x, **state), y, 64, f"{name}: f(right_inverse(y)) - y")


@promise
def is_kept_by_a_layer(case: Case) -> None:
    """Registration keeps a value that is on the set; so does a copy in another precision."""
    for dtype in case.all_dtypes:
        for name, y in _points(case, dtype):
            layer = nn.Module()
            layer.weight = nn.Parameter(y.clone())
            register_constrained_parameter(layer, "weight", case.constraint, project=False)
            _close(layer.weight.detach(), y, 64, f"{name} ({dtype}): the value of a layer - y")
            if dtype == torch.float32:
                wide = copy.deepcopy(layer).double()
                read: Tensor = getattr(wide, "weight")  # noqa: B009
                _close(read.detach().to(dtype), y, 256, f"{name}: its copy in double precision - y")


@promise
def retract_keeps_the_value(case: Case) -> None:
    """retract changes coordinates, not y, and gives back x and state in the same shapes."""
    for dtype in case.all_dtypes:
        for where, like, state in _settings(case, dtype):
            x = _raw(like, 0.5)
            y = case.constraint(x, **state)
            moved, after = case.constraint.retract(x, **state)
            _expect(moved.shape == x.shape and moved.dtype == dtype, f"{where}: another kind of x")
            _close(case.constraint(moved, **after), y, 64, f"{where}: y after retract")


@promise
def decays_to_its_target(case: Case) -> None:
    """f(0) is the published decay target."""
    _expect(bool(case.constraint.decay_target), "decay_target is empty")
    for dtype in case.all_dtypes:
        y = _sample(case, dtype)
        x, state = _split(case.constraint.right_inverse(y))
        reached = case.constraint(torch.zeros_like(x), **state)
        expected = case.decay_target(state.get("base", y).to(dtype))
        _close(reached, expected.to(dtype), 64, "f(0) - decay target")


_PRODUCTS: dict[tuple[str, ...], Callable[..., Tensor]] = {
    ("cholesky",): lambda l: l @ l.mH,
    ("root",): lambda z: z @ z.mH,
    ("q", "r"): lambda q, r: q @ r,
    ("left", "right"): lambda left, right: left @ right,
    ("q", "core"): lambda q, core: q @ core @ q.mH,
    ("left", "core", "right"): lambda left, core, right: left @ core @ right.mH,
}


@promise
def factors_multiply_to_y(case: Case) -> None:
    """Absent (ConstraintError), or matrices whose product is y, and the logarithm of |det y|."""
    for dtype in case.all_dtypes:
        for where, like, state in _settings(case, dtype):
            x = _raw(like)
            try:
                found = case.constraint.factors(x, **state)
            except errors.ConstraintError:
                return
            y = case.constraint._read(case.constraint(x, **state))
            logdet = found.pop("logdet", None)
            make = _PRODUCTS.get(tuple(found))
            _expect(make, f"factors are {', '.join(found)}; known are {sorted(_PRODUCTS)}")
            assert make is not None
            units = 64 * max(case.shape[-2:])
            _close(make(*found.values()), y, units, f"product of the factors - y, {where}, {dtype}")
            if logdet is not None:
                exact = torch.linalg.slogdet(y.to(torch.promote_types(dtype, torch.float64)))[1]
                rough = float(
                    torch.linalg.cond(y.to(torch.promote_types(dtype, torch.float64))).max()
                )
                _close(logdet, exact.to(logdet.dtype), 64 * rough, f"logdet, {where}, {dtype}")


# the set ----------------------------------------------------------------------------------------


@promise
def knows_its_members(case: Case) -> None:
    """Members are in, near misses are out, NaN and infinity are out; right_inverse refuses them."""
    constraint = case.constraint
    for dtype in case.all_dtypes:
        for name, y in _points(case, dtype):
            _expect(constraint.contains(y).all(), f"{name} ({dtype}) is not contained")
            _expect((constraint.residual(y) >= 0).all(), f"{name}: negative residual")
            batch = constraint._matrix_shape(case.shape)
            batch = batch[: len(batch) - constraint.event_dim]
            for found in (constraint.residual(y), constraint.contains(y)):
                _expect(tuple(found.shape) == batch, f"{name}: shape {tuple(found.shape)}")
        wrong: dict[str, Callable[[Tensor], Tensor]] = dict(case.near_misses)
        wrong["NaN"] = lambda y: torch.full_like(y, torch.nan)
        wrong["infinity"] = lambda y: torch.full_like(y, torch.inf)
        for name, damage in wrong.items():
            y = damage(_sample(case, dtype))
            if _eps(dtype) > 1e-4 and name in case.near_misses:
                continue  # what is a near miss in float32 is rounding in half precision
            _expect(not constraint.contains(y).all(), f"near miss {name!r} ({dtype}) is contained")
            _expect((constraint.residual(y) > 0).any(), f"near miss {name!r} has residual 0")
            _refuses_with_a_remedy(constraint, y, name)


def _refuses_with_a_remedy(constraint: Constraint, y: Tensor, name: str) -> None:
    try:
        constraint.right_inverse(y)
    except errors.ConstraintViolation as complaint:
        text = str(complaint)
        _expect("project" in text and repr(constraint) in text, f"{name}: no remedy in {text!r}")
        return
    raise PromiseBroken(f"right_inverse accepted the near miss {name!r}")


@promise
def project_lands_and_stays(case: Case) -> None:
    """project lands in the set from anywhere, is idempotent, keeps members and refuses NaN."""
    constraint = case.constraint
    for dtype in case.all_dtypes:
        for scale in SCALES:
            noise = _raw(torch.empty(case.shape, dtype=dtype), scale)
            y = constraint.project(noise)
            _expect(constraint.contains(y).all(), f"project({scale:g} noise) is off the set")
            _close(constraint.project(y), y, 16, f"project twice, scale {scale:g}")
        for name, damage in case.near_misses.items():
            y = constraint.project(damage(_sample(case, dtype)))
            _expect(constraint.contains(y).all(), f"project(near miss {name!r}) is off the set")
        for name, y in _points(case, dtype):
            _close(constraint.project(y), y, 16, f"project of a member, {name}")
        with _raises(errors.ConstraintViolation, "project(NaN)"):
            constraint.project(torch.full(case.shape, torch.nan, dtype=dtype))


@promise
def samples_are_reproducible(case: Case) -> None:
    """sample gives members of the asked shape and dtype, equal for equal generators."""
    for dtype in case.all_dtypes:
        y, again, other = _sample(case, dtype), _sample(case, dtype), _sample(case, dtype, seed=1)
        _expect(
            y.dtype == dtype and tuple(y.shape) == case.shape, f"sample is {y.dtype}, {y.shape}"
        )
        _expect(torch.equal(y, again), "the same generator gave another sample")
        _expect(not torch.equal(y, other), "another generator gave the same sample")
        _expect(case.constraint.contains(y).all(), f"a sample in {dtype} is off the set")


# derivatives ------------------------------------------------------------------------------------


def _real(t: Tensor) -> Tensor:
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


def _jacobian(
    case: Case,
    x: Tensor,
    state: State,
    dtype: torch.dtype,
    coordinates: Callable[[Tensor], Tensor] = _real,
) -> Tensor:
    """The real Jacobian of f at x, as a matrix."""

    def f(raw: Tensor) -> Tensor:
        full = torch.view_as_complex(raw) if dtype.is_complex else raw
        return coordinates(case.constraint(full, **state))

    raw = _real(x).clone()
    return torch.autograd.functional.jacobian(f, raw).reshape(-1, raw.numel())


@promise
def has_its_dimension(case: Case) -> None:
    """The Jacobian has rank ``dimension`` at random points and wherever registration may start."""
    for dtype in case.exact_dtypes:
        expected = case.constraint.dimension(case.shape, dtype)
        points = [(w, _raw(like, 0.5), s) for w, like, s in _settings(case, dtype)]
        for name, x, state in points + list(_starts(case, dtype)):
            rank = int(torch.linalg.matrix_rank(_jacobian(case, x, state, dtype), rtol=1e-10))
            text = f"{name}, {dtype}: Jacobian of rank {rank}, dimension {expected}"
            _expect(rank == expected, text)


@promise
def is_one_to_one_as_published(case: Case) -> None:
    """Where ``one_to_one``: injective in the entries of x that f reads."""
    _expect(isinstance(case.constraint.one_to_one, bool), "one_to_one is not a bool")
    _expect(isinstance(case.constraint.smooth, bool), "smooth is not a bool")
    _expect(bool(case.constraint.onto), "onto is empty")
    if not case.constraint.one_to_one:
        return
    for dtype in case.exact_dtypes:
        for where, like, state in _settings(case, dtype):
            x = _raw(like, 0.5)
            read = (_jacobian(case, x, state, dtype) != 0).any(0)
            count, rank = int(read.sum()), case.constraint.dimension(case.shape, dtype)
            _expect(count == rank, f"{where}: f reads {count} numbers for a dimension of {rank}")
            if not case.constraint.state_names:
                back, _ = _split(case.constraint.right_inverse(case.constraint(x)))
                a, b = _real(back).flatten()[read], _real(x).flatten()[read]
                _close(a, b, 1e4, "right_inverse(f(x)) - x")


@promise
def first_derivative_is_right(case: Case) -> None:
    """gradcheck at random points and at the default start."""
    _differences(case, torch.autograd.gradcheck, fast_mode=False)


@promise
def second_derivative_is_right(case: Case) -> None:
    """gradgradcheck at random points and at the default start."""
    # Along random directions: entry by entry the differences take most of the suite's time.
    _differences(case, torch.autograd.gradgradcheck, fast_mode=True)


def _differences(case: Case, check: Callable[..., bool], fast_mode: bool) -> None:
    for dtype in case.exact_dtypes:
        points = [(w, _raw(like, 0.5), s) for w, like, s in _settings(case, dtype)]
        y = case.constraint.project(_raw(torch.empty(case.shape, dtype=dtype)))
        points.append(("project(noise)", *_split(case.constraint.right_inverse(y))))
        for name, x, state in points:
            leaf = x.clone().requires_grad_()
            try:
                check(lambda t, s=state: case.constraint(t, **s), (leaf,), fast_mode=fast_mode)
            except GradcheckError as problem:
                raise PromiseBroken(f"{name}, {dtype}: {problem}") from problem


@promise
def gradients_are_finite(case: Case) -> None:
    """First and second derivatives are finite at the default start, the first at every scale."""
    for dtype in case.all_dtypes:
        points = list(_starts(case, dtype))
        for where, like, state in _settings(case, dtype):
            points += [(f"{s:g} noise, {where}", _raw(like, s), state) for s in SCALES]
        for name, x, state in points:
            leaf = x.clone().requires_grad_()
            y = case.constraint(leaf, **state)
            weight = _raw(y, seed=1)
            (first,) = torch.autograd.grad(y, leaf, weight, create_graph=True)
            _expect(torch.isfinite(first).all(), f"{name}, {dtype}: gradient is not finite")
            if "noise, " not in name and first.requires_grad:
                size = _real(first).square().sum()
                (second,) = torch.autograd.grad(size, leaf, allow_unused=True)
                good = second is None or bool(torch.isfinite(second).all())
                _expect(good, f"{name}, {dtype}: second derivative is not finite")


@promise
def pullback_is_linear(case: Case) -> None:
    """vjp(a g + b h) = a vjp(g) + b vjp(h), for gradients of any size: 1e-6 ... 1e6."""
    for dtype in (d for d in case.all_dtypes if _eps(d) < 1e-4):
        for where, like, state in _settings(case, dtype):
            leaf = _raw(like).requires_grad_()
            y = case.constraint(leaf, **state)
            g, h = _raw(y, seed=1), _raw(y, seed=2)

            def pull(v: Tensor, y: Tensor = y, leaf: Tensor = leaf) -> Tensor:
                return torch.autograd.grad(y, leaf, v, retain_graph=True)[0]

            _close(
                pull(2 * g - 3 * h), 2 * pull(g) - 3 * pull(h), 128, f"{where}: sum of gradients"
            )
            for size in (1e-6, 1e6):
                text = f"{where}: gradient of size {size:g}"
                _close(pull(size * g) / size, pull(g), 128, text)


# ways to call it --------------------------------------------------------------------------------


@promise
def batch_is_its_elements(case: Case) -> None:
    """Every method gives for a batch what it gives for its elements."""
    if not case.batched:
        return
    c = case.constraint
    for dtype in case.all_dtypes:
        y = _sample(case, dtype, (2, 3))
        x, state = _split(c.right_inverse(y))
        raw = _raw(x, 0.5)
        noise = _raw(y, 2.0)
        batched = (c(raw, **state), c.residual(noise), c.project(noise))
        for i in range(2):
            for j in range(3):
                own = {k: v[i, j] for k, v in state.items()}
                single = (c(raw[i, j], **own), c.residual(noise[i, j]), c.project(noise[i, j]))
                for name, a, b in zip(("f", "residual", "project"), batched, single, strict=True):
                    _close(a[i, j], b, 128, f"{name} of a batch, {dtype}")
        _close(c(x, **state), y, 64, f"right_inverse of a batch, {dtype}")


@promise
def works_under_vmap(case: Case) -> None:
    """torch.func.vmap over x (and over its gradient) gives what a loop gives."""
    for dtype in case.all_dtypes:
        for where, like, state in _settings(case, dtype):
            xs = torch.stack([_raw(like, 0.5, seed=s) for s in range(3)])

            def f(x: Tensor, state: State = state) -> Tensor:
                return case.constraint(x, **state)

            def size(x: Tensor) -> Tensor:
                return (_real(f(x)) ** 3).sum()

            loop = torch.stack([f(x) for x in xs])
            _close(torch.func.vmap(f)(xs), loop, 128, f"vmap, {where}")
            if not dtype.is_complex:
                slope = torch.func.grad(size)
                loop = torch.stack([slope(x) for x in xs])
                _close(torch.func.vmap(slope)(xs), loop, 512, f"vmap of grad, {where}")


@promise
def compiled_equals_eager(case: Case) -> None:
    """torch.compile(fullgraph=True): value and gradient are those of eager mode."""
    dtypes = [d for d in case.all_dtypes if d in (torch.float32, torch.complex64)]
    for dtype in dtypes:
        for where, like, state in _settings(case, dtype):
            torch.compiler.reset()

            def f(x: Tensor, state: State = state) -> Tensor:
                return case.constraint(x, **state)

            compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
            a, b = (_raw(like, 0.5).requires_grad_() for _ in range(2))
            y, eager = compiled(a), f(b)
            _close(y.detach(), eager.detach(), 64, f"compiled value, {where}, {dtype}")
            weight = _raw(eager, seed=1)
            y.backward(weight)
            eager.backward(weight)
            assert a.grad is not None
            assert b.grad is not None
            _close(a.grad, b.grad, 128, f"compiled gradient, {where}, {dtype}")


@promise
def leaves_its_inputs_alone(case: Case) -> None:
    """No method writes to x, y or the state it is given."""
    c = case.constraint
    for dtype in case.all_dtypes:
        y = _sample(case, dtype)
        x, state = _split(c.right_inverse(y))
        given = [x, y, *state.values()]
        before = [(t.clone(), t._version) for t in given]
        c(x, **state)
        for method in (c.right_inverse, c.residual, c.contains, c.project, c.tolerance):
            method(y)
        c.retract(x, **state)
        for t, (value, version) in zip(given, before, strict=True):
            _expect(torch.equal(t, value) and t._version == version, f"an input changed, {dtype}")


@promise
def ignores_autocast(case: Case) -> None:
    """Under bfloat16 autocast f is computed as without."""
    for _, like, state in _settings(case, torch.float32):
        x = _raw(like)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = case.constraint(x, **state)
        _expect(torch.equal(y, case.constraint(x, **state)), "autocast changed the value of f")


@promise
def refuses_wrong_shapes_and_dtypes(case: Case) -> None:
    """ShapeError for the row's bad shapes, DtypeError for integers; foreign state is refused."""
    c = case.constraint
    for shape in case.bad_shapes:
        for method in (c.check_shape, c.dimension, c.unconstrained_shape, c.sample):
            with _raises(errors.ShapeError, f"{method.__name__} of shape {shape}"):
                method(shape)
        for on_tensor in (c.right_inverse, c.residual, c.project, c.contains):
            with _raises(errors.ShapeError, f"{on_tensor.__name__} of shape {shape}"):
                on_tensor(torch.zeros(shape))
    with _raises(errors.DtypeError, "an integer tensor"):
        c(torch.zeros(case.shape, dtype=torch.int64))
    if not c.has_complex:
        with _raises(errors.DtypeError, "a complex tensor"):
            c(torch.zeros(case.shape, dtype=torch.complex64))
    with _raises(errors.ConstraintError, "state of an unknown name"):
        c(_sample(case, torch.float32), no_such_state=torch.zeros(case.shape))


@promise
def rounds_half_precision(case: Case) -> None:
    """In bfloat16 f is the float32 value, rounded."""
    if torch.bfloat16 not in case.dtypes:
        return
    for _, like, state in _settings(case, torch.bfloat16):
        x = _raw(like)
        y = case.constraint(x, **state)
        expected = case.constraint(x.float(), **state).to(torch.bfloat16)
        _expect(torch.equal(y, expected), "bfloat16 is not rounded float32")


@promise
def is_a_value(case: Case) -> None:
    """Copies and pickles compare and hash equal; the set is immutable; repr rebuilds it."""
    c = case.constraint
    for other in (copy.copy(c), copy.deepcopy(c), pickle.loads(pickle.dumps(c))):
        _expect(other == c and hash(other) == hash(c), f"a copy of {c!r} is not equal to it")
    names = {name: getattr(sets, name) for name in sets.__all__}
    rebuilt = eval(repr(c), {**names, type(c).__name__: type(c), "tensor": torch.tensor})
    _expect(rebuilt == c and hash(rebuilt) == hash(c), f"repr {c!r} rebuilds another set")
    with _raises(AttributeError, "a new attribute"):
        c.no_such_option = 1  # type: ignore[attr-defined]


@promise
def log_abs_det_jacobian_is_right(case: Case) -> None:
    """Absent (ConstraintError), or the log-determinant of the Jacobian in the row's coordinates."""
    for dtype in case.exact_dtypes:
        x = _raw(_split(case.constraint.right_inverse(_sample(case, dtype)))[0], 0.5)
        try:
            found = case.constraint.log_abs_det_jacobian(x)
        except errors.ConstraintError:
            _expect(case.coordinates is None, "the row gives coordinates, the set no log |det J|")
            return
        coordinates = case.coordinates
        _expect(coordinates is not None, "the row gives no coordinates for log |det J|")
        assert coordinates is not None
        full = _jacobian(case, x, {}, dtype, coordinates)
        square = full[:, (full != 0).any(0)]
        _close(found.sum(), torch.linalg.slogdet(square)[1], 1e4, f"log |det J|, {dtype}")
