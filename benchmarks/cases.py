"""What the benchmark of kernels measures: a set in a shape, where x stands, and the goal."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from constrainedparams import (
    Constraint,
    Correlation,
    DoublyStochastic,
    Grassmann,
    Hurwitz,
    Invertible,
    LowRank,
    Orthogonal,
    PositiveDefinite,
    Schur,
    SpecialLinear,
    SpectralBall,
    Symplectic,
)
from constrainedparams.numerics.exponential import expm

from .pairs import Step

__all__ = ["CASES", "Case", "product", "there_and_back"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One row.

    Args:
        constraint, shape: f, and the shape of y; f may be a plain function of a matrix.
        goal: products of the same size that one value and its gradient may cost.
        peers: the family in :mod:`benchmarks.peers` that does the same job.
        norm: about the spectral norm of x (an exponential costs more the larger x is).
        based: whether there is a base point to move to, for maps that have one.
        counted: whether all of the work is products of matrices, so that their number says more
            than a time.
    """

    constraint: Constraint | Callable[[Tensor], Tensor]
    shape: Shape
    goal: float | None = None
    peers: str = ""
    norm: float = 1.2
    based: bool = True
    counted: bool = field(default=False)

    def __str__(self) -> str:
        f = self.constraint
        name = repr(f) if isinstance(f, Constraint) else f.__name__
        base = "" if self.based else " without base"
        return f"{name}{base}, {' x '.join(map(str, self.shape))}"


EXP, CAYLEY, POLAR = Orthogonal(), Orthogonal("cayley"), Orthogonal("polar")
HOUSEHOLDER = Orthogonal("householder")
ORTHONORMAL, REFLECTORS = "orthonormal", "reflectors"

CASES = (
    Case(EXP, (64, 64), None, ORTHONORMAL, counted=True),
    Case(EXP, (512, 512), 22, ORTHONORMAL, counted=True),
    Case(CAYLEY, (512, 512), 9, ORTHONORMAL),
    Case(EXP, (1024, 64), None, ORTHONORMAL),
    Case(EXP, (1024, 64), 32, based=False),
    Case(EXP, (4096, 64)),
    Case(EXP, (4096, 64), 17, based=False),
    Case(CAYLEY, (1024, 64), None, ORTHONORMAL),
    Case(CAYLEY, (1024, 64), 16, based=False),
    Case(CAYLEY, (4096, 64)),
    Case(CAYLEY, (4096, 64), 13, based=False),
    Case(POLAR, (1024, 64), 18),
    Case(POLAR, (4096, 64), 12),
    Case(HOUSEHOLDER, (512, 512), None, REFLECTORS),
    Case(HOUSEHOLDER, (1024, 64), None, REFLECTORS),
    Case(HOUSEHOLDER, (4096, 64), None, REFLECTORS),
    Case(EXP, (64, 32, 32), 45),
    Case(Grassmann(), (1024, 64)),
    Case(PositiveDefinite(), (512, 512), 4, "positive definite", counted=True),
    Case(PositiveDefinite(map="exp"), (512, 512), 20),
    Case(PositiveDefinite(0.0, 1.0), (512, 512)),
    Case(Correlation(), (512, 512), None, "correlation"),
    Case(SpectralBall(), (512, 512), 10, "spectral norm"),
    Case(SpectralBall(), (1024, 64)),
    Case(LowRank(16), (512, 512)),
    Case(Invertible(), (512, 512)),
    Case(SpecialLinear(), (512, 512)),
    Case(Symplectic(), (512, 512)),
    Case(expm, (512, 512), 21, "exponential", counted=True),
    Case(Schur(), (256, 256)),
    Case(Hurwitz(), (256, 256)),
    Case(DoublyStochastic(), (64, 64), None, "doubly stochastic"),
    Case(DoublyStochastic(), (1024, 1024), None, "doubly stochastic"),
)
QUICK = (Case(EXP, (64, 64), 1e3, ORTHONORMAL, counted=True), Case(CAYLEY, (48, 8)))


def there_and_back(case: Case) -> Step:
    """One value of f, at a base point of its own, and the gradient of it."""
    torch.manual_seed(0)
    f, g = case.constraint, torch.randn(case.shape)
    if not isinstance(f, Constraint):
        # A matrix of normal entries has the norm 2 sqrt(n).
        x = (0.5 * case.norm * case.shape[-1] ** -0.5 * torch.randn(case.shape)).requires_grad_()
        return lambda: torch.autograd.grad(f(x), x, g)
    found = f.right_inverse(f.sample(case.shape))
    like, state = found if isinstance(found, tuple) else (found, {})
    state = state if case.based else {}
    n = max(case.shape[-2:])
    # The skew matrix of normal entries below the diagonal has the norm 2 sqrt(n).
    x = (0.5 * case.norm * n**-0.5 * torch.randn_like(like) + like).requires_grad_()
    return lambda: torch.autograd.grad(f(x, **state), x, g)


def product(shape: Shape, repeats: int) -> Step:
    """``repeats`` products of this size: n k^2 operations for n x k, a batch of them for more."""
    *batch, n, k = shape
    a, b = torch.randn(*batch, max(n, k), min(n, k)), torch.randn(*batch, min(n, k), min(n, k))
    return lambda: [a @ b for _ in range(repeats)]


def repeats(shape: Shape) -> int:
    """How often, so that the clock sees it."""
    return max(1, 2**24 // operations(shape))


def operations(shape: Shape) -> int:
    count = 1
    for length in shape[:-2]:
        count *= length
    return count * max(shape[-2:]) * min(shape[-2:]) ** 2
