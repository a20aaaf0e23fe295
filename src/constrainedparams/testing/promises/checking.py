"""What the promises are checked with: values of each kind, and comparisons that explain."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..case import Case

__all__ = [
    "SCALES",
    "Promise",
    "PromiseBroken",
    "State",
    "close",
    "eps",
    "expect",
    "generator",
    "points_of",
    "raises",
    "random_x",
    "real",
    "sample",
    "settings",
    "split",
    "starts",
]

Promise = Callable[[Case], None]
State = dict[str, Tensor]
SCALES = (0.0, 1e-3, 0.1, 1.0, 10.0, 100.0)


class PromiseBroken(AssertionError):
    """A set does not keep a promise of the contract."""


def expect(holds: Any, message: str) -> None:
    if not bool(holds):
        raise PromiseBroken(message)


@contextmanager
def raises(kind: type[Exception], what: str) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise PromiseBroken(f"{what} was accepted; expected {kind.__name__}")


def eps(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).eps)


def close(a: Tensor, b: Tensor, units: float, what: str) -> None:
    """``a`` = ``b`` up to ``units`` rounding units of the larger of 1 and the largest entry."""
    expect(a.shape == b.shape, f"{what}: shape {tuple(a.shape)} instead of {tuple(b.shape)}")
    if a.numel() == 0:
        return
    gap = float((a - b).abs().max())
    bound = units * eps(a.dtype) * max(1.0, float(b.abs().max()))
    expect(gap <= bound, f"{what}: off by {gap:.3g}, allowed {bound:.3g} ({a.dtype})")


def split(found: Tensor | tuple[Tensor, State]) -> tuple[Tensor, State]:
    return found if isinstance(found, tuple) else (found, {})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def sample(case: Case, dtype: torch.dtype, lead: tuple[int, ...] = (), seed: int = 0) -> Tensor:
    shape = (*lead, *case.shape)
    return case.constraint.sample(shape, dtype=dtype, generator=generator(seed))


def random_x(like: Tensor, scale: float = 1.0, seed: int = 0) -> Tensor:
    """A random x of the shape and dtype of ``like``."""
    wide = like.dtype if like.dtype.is_complex or eps(like.dtype) < 1e-4 else torch.float32
    draw = torch.randn(like.shape, dtype=wide, generator=generator(seed))
    return (scale * draw).to(like.dtype)


def points_of(case: Case, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Members of the set: samples, the awkward ones, and where registration may put a layer."""
    yield "a sample", sample(case, dtype)
    for name, make in case.awkward.items():
        yield name, make(torch.empty(case.shape, dtype=dtype))
    zeros = torch.zeros(case.shape, dtype=dtype)
    yield "project(0)", case.constraint.project(zeros)
    yield "project(noise)", case.constraint.project(random_x(zeros))


def starts(case: Case, dtype: torch.dtype) -> Iterator[tuple[str, Tensor, State]]:
    """x and state as registration makes them."""
    for name, y in points_of(case, dtype):
        yield name, *split(case.constraint.right_inverse(y))


def settings(case: Case, dtype: torch.dtype) -> Iterator[tuple[str, Tensor, State]]:
    """A template of x, with the state of a sample and, where there is state, without."""
    x, state = split(case.constraint.right_inverse(sample(case, dtype)))
    yield "state of a sample", x, state
    if state:
        yield "no state", x, {}


def real(t: Tensor) -> Tensor:
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
