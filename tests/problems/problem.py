"""A problem with a known answer, and the one way in which all of them are solved."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from constrainedparams import Parametrized, retract

__all__ = ["Problem", "optimizer", "solve"]


def optimizer(kind: str, **options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    """An optimiser of torch by name, its options given."""
    if kind == "LBFGS":
        exact = {"tolerance_grad": 1e-12, "tolerance_change": 1e-15}
        options = {"line_search_fn": "strong_wolfe", "history_size": 10, **exact, **options}
    return lambda parameters: getattr(torch.optim, kind)(parameters, **options)


@dataclass(frozen=True)
class Problem:
    """min loss(y) over a set.

    Args:
        constraint: the set.
        start: y to begin with, on the set or moved onto it.
        loss: what is minimised, one number.
        answer: the known minimiser, or the known minimum, by a route that shares no code.
        quantity: what of y is compared with the answer; by default y itself.
        atol: how near, absolutely.
        make: an optimiser of torch for x.
        steps: calls of ``optimizer.step``.
        retract_every: re-base after so many steps (0: never).
    """

    constraint: Any
    start: Tensor
    loss: Callable[[Tensor], Tensor]
    answer: Any
    quantity: Callable[[Tensor], Any] = field(default=lambda y: y)
    atol: float = 1e-6
    make: Callable[[Any], torch.optim.Optimizer] = field(default=optimizer("LBFGS"))
    steps: int = 30
    retract_every: int = 0


def solve(problem: Problem) -> Tensor:
    """The y that plain ``torch.optim`` finds through :class:`Parametrized`."""
    w = Parametrized(problem.start, problem.constraint)
    optimizer = problem.make(w.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss(w.y)
        loss.backward()
        return loss

    for step in range(1, problem.steps + 1):
        optimizer.step(closure)
        if problem.retract_every and step % problem.retract_every == 0:
            retract(w)
    return w.y.detach()


Problems = Mapping[str, Callable[[], Problem]]
