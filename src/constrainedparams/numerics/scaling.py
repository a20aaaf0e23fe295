"""Positive matrices with given sums of rows and columns: D exp(X) E, by Sinkhorn and Newton.

The potentials are found to rounding, and the derivative is that of the equations they solve: plain
Sinkhorn iterations stop 5 % off for logits of size 5, and their unrolled derivative with them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .operation import like_the_first, opaque, refuse_tangents

__all__ = ["scaled_to_sums"]

_MOST_STEPS = 200
_SPREAD = 16.0  # of logits: where the iteration converges from any start in a few steps
_MOST_STAGES = 64


class _Point(NamedTuple):
    """Potentials v of the columns, with those of the rows for which their sums are right."""

    v: Tensor
    p: Tensor  # diag(exp u) exp(X) diag(exp v)
    value: Tensor  # of the convex function that v minimises: sum of r_i log sum_j - sum of c_j v_j
    error: Tensor  # the largest relative one of a column, infinite where it is not a number


def _point(x: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> _Point:
    z = x + v.unsqueeze(-2)
    logs = torch.logsumexp(z, dim=-1)
    p = torch.exp(z - logs.unsqueeze(-1)) * rows.unsqueeze(-1)
    value = ((rows * logs).sum(-1) - (columns * v).sum(-1)).nan_to_num(torch.inf)
    return _Point(v, p, value, _error(p, columns))


def _where(flags: Tensor, one: _Point, other: _Point) -> _Point:
    shapes = (flags.unsqueeze(-1), flags[..., None, None], flags, flags)
    return _Point(*(torch.where(f, a, b) for f, a, b in zip(shapes, one, other, strict=True)))


def _error(p: Tensor, columns: Tensor) -> Tensor:
    """Largest relative error of a column, infinite where it is not a number."""
    return (p.sum(-2) / columns - 1).abs().amax(-1).nan_to_num(torch.inf)


def _laplacian(p: Tensor) -> Tensor:
    """The Hessian diag(c) - P^T diag(1/r) P in the potentials of the columns, r and c the sums.

    A constant is in its kernel; it is taken out by c c^T / sum(c). Where P falls apart into blocks
    to rounding there are more such vectors, which matter nowhere: a few rounding units keep the
    matrix regular.
    """
    r, c = p.sum(-1), p.sum(-2)
    ridge = 1 + 8 * p.shape[-1] * torch.finfo(p.dtype).eps
    gauge = c.unsqueeze(-1) * c.unsqueeze(-2) / c.sum(-1)[..., None, None]
    return torch.diag_embed(ridge * c) + gauge - p.mT @ (p / r.unsqueeze(-1))


def _step(x: Tensor, at: _Point, rows: Tensor, columns: Tensor) -> _Point:
    """A step of Sinkhorn; where it gains less than a digit, one of Newton if that gains more.

    The first never fails, and is fast unless logits are large. The second is fast near the end;
    before it, a tiny entry through which much has to pass makes it so long that lengths 1, 4, 16,
    64 along it are tried. They are compared by the function that is minimised, and by the error
    where the function no longer changes.
    """
    sums = at.p.sum(-2)
    tiny = torch.finfo(x.dtype).tiny
    best = _point(x, at.v + columns.log() - sums.clamp_min(tiny).log(), rows, columns)
    if not bool((best.error > 0.1 * at.error).any()):
        return best
    newton = torch.linalg.solve_ex(_laplacian(at.p), columns - sums)[0]
    newton = torch.where(torch.isfinite(newton), newton, 0)
    size = newton.abs().amax(-1, keepdim=True).clamp_min(tiny)
    far = at.error > 1e-4
    for length in (torch.inf, 1.0, 4.0, 16.0, 64.0):
        if length < torch.inf and not bool((size > length).any()):
            break
        tried = _point(x, at.v + (length / size).clamp_max(1) * newton, rows, columns)
        better = torch.where(far, tried.value < best.value, tried.error < best.error)
        best = _where(better, tried, best)
    return best


def _converged(x: Tensor, v: Tensor, rows: Tensor, columns: Tensor, goal: float) -> _Point:
    """Where the error is below ``goal``, or as small as the rounding of the potentials allows."""
    at = _point(x, v, rows, columns)
    done = at.error <= goal
    for _ in range(_MOST_STEPS):
        if bool(done.all()):
            break
        after = _step(x, at, rows, columns)
        # Within rounding a step may go either way: what is stuck there has arrived.
        done = done | (after.error <= goal) | ((after.error >= at.error) & (at.error < 1e-10))
        at = _where(after.error < at.error, after, at) if bool(done.all()) else after
    return at


def _polished(p: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """A few steps of Newton on P itself: beside large potentials they were below rounding."""
    p = p * (rows / p.sum(-1)).unsqueeze(-1)
    for _ in range(8):
        error = _error(p, columns)
        if bool((error <= 2 * torch.finfo(p.dtype).eps).all()):
            break
        step = torch.linalg.solve_ex(_laplacian(p), columns - p.sum(-2))[0]
        step = step / step.abs().amax(-1, keepdim=True).clamp_min(1.0)
        q = p * torch.exp(step).unsqueeze(-2)
        q = q * (rows / q.sum(-1)).unsqueeze(-1)
        kept = _error(q, columns) <= (2 * error).clamp_min(1e-10)
        p = torch.where(kept[..., None, None], q, p)
    return p


def _scaled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    if x.shape[-1] > x.shape[-2]:  # the equations are as many as columns
        return _scaled(x.mT, columns, rows).mT.contiguous()
    known = torch.isfinite(x).all(-1).all(-1)[..., None, None]
    x = torch.where(known, x, 0)
    spread = float((x.amax((-2, -1)) - x.amin((-2, -1))).max()) if x.numel() else 0.0
    stages = 0
    while spread * 0.5**stages > _SPREAD and stages < _MOST_STAGES:
        stages += 1
    v = torch.zeros_like(x[..., 0, :])
    # Flat logits first: twice the logits have about twice the potentials (of the linear programme
    # that large logits are near to), where a start from 0 would crawl.
    for stage in range(stages, -1, -1):
        goal = 4 * torch.finfo(x.dtype).eps if stage == 0 else 1e-2
        at = _converged(0.5**stage * x, v, rows, columns, goal)
        v = 2 * at.v
    return torch.where(known, _polished(at.p, rows, columns), torch.nan)


def _tangent(p: Tensor, g: Tensor) -> Tensor:
    """dP for dX = G, and the gradient in X for one of G in P: P o (G - alpha 1^T - 1 beta^T).

    The sums of rows and columns of dP = P o (dX + du 1^T + 1 dv^T) are 0; du is eliminated. As an
    operator on G it is symmetric. The sums of P itself stand for those that were asked for, so
    that the equations have a solution also where the iteration did not reach the last digit.
    """
    if p.shape[-1] > p.shape[-2]:
        return _tangent(p.mT, g.mT).mT.contiguous()
    h, r = p * g, p.sum(-1)
    right = h.sum(-2) - (p * (h.sum(-1) / r).unsqueeze(-1)).sum(-2)
    beta = torch.linalg.solve(_laplacian(p), right.unsqueeze(-1)).squeeze(-1)
    alpha = (h.sum(-1) - (p @ beta.unsqueeze(-1)).squeeze(-1)) / r
    return h - p * (alpha.unsqueeze(-1) + beta.unsqueeze(-2))


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(output)
    ctx.save_for_forward(output)


def _back(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
    (p,) = ctx.saved_tensors
    return _tangent(p, g), None, None


# Opaque, because how many steps it takes depends on values.
_operator = opaque(
    "scaled_to_sums",
    "(Tensor x, Tensor rows, Tensor columns) -> Tensor",
    _scaled,
    like_the_first,
    _back,
    _save,
)


class _Scaled(torch.autograd.Function):
    """The operation with forward mode, which Dynamo refuses."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        result: Tensor = _operator(x, rows, columns)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _save(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return _back(ctx, g)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (p,) = ctx.saved_tensors
        return _tangent(p, tangent)


def scaled_to_sums(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """exp(X + u 1^T + 1 v^T) with the given sums, differentiable to any order in X.

    Sinkhorn's theorem (Annals of Mathematical Statistics 35, 1964): for positive sums with equal
    totals there is exactly one such matrix.

    Args:
        x: (..., n, m) in double precision, logits of any size.
        rows, columns: (n) and (m), positive, with equal totals; constants.

    Returns:
        (..., n, m), sums right to rounding; entries below 1e-308 of a sum are 0.
    """
    rows, columns = rows.expand(x.shape[:-1]), columns.expand(x[..., 0, :].shape)
    apply: Any = _Scaled.apply
    if torch.compiler.is_dynamo_compiling():
        refuse_tangents(x)
        apply = _operator
    result: Tensor = apply(x, rows, columns)
    return result
