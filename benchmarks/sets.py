"""What the plain formulas of sets of vectors lose to rounding, and what the cure costs.

``OMP_NUM_THREADS=1 python -m benchmarks.sets`` prints the figures of docs/decisions/0008-sets.md.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from constrainedparams import AffineSubspace, Interval, Ordered, SumToZero, Symmetric, Toeplitz


def microseconds(call: Callable[[], object], count: int = 300) -> float:
    call()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * median(times)


def relative(gap: Tensor, y: Tensor) -> float:
    return float((gap.abs() / y.double().norm(dim=-1)).max())


def plain_steps(x: Tensor) -> Tensor:
    return torch.cat((x[..., :1], F.softplus(x[..., 1:])), dim=-1).cumsum(-1)


def ties() -> None:
    x = 10 * torch.randn(1000, 6)
    for name, f in (("plain", plain_steps), ("Ordered()", Ordered())):
        tied = (f(x).diff(dim=-1) <= 0).any(-1)
        print(f"vectors of 1000 with equal neighbours, x = 10 randn(6): {name} {tied.sum()}")


def bounds() -> None:
    x = torch.linspace(-30, 30, 1001).bfloat16()
    rounded = torch.sigmoid(x.float()).bfloat16()
    for name, y in (("plain", rounded), ("Interval", Interval(0.0, 1.0)(x))):
        reached = ((y <= 0) | (y >= 1)).sum()
        print(f"bfloat16 numbers of 1001 at a bound of (0, 1): {name} {reached}")


def means() -> None:
    x = 1e4 + torch.randn(1000, 8)
    for name, y in (("x - mean", x - x.mean(-1, keepdim=True)), ("SumToZero()", SumToZero()(x))):
        print(f"|sum| / |y| beside a mean of 1e4: {name} {relative(y.double().sum(-1), y):.1e}")


def conditions() -> None:
    U, _, V = torch.linalg.svd(torch.randn(3, 6, dtype=torch.float64), full_matrices=False)
    A = (U * torch.tensor([1.0, 1e-3, 1e-6], dtype=torch.float64)) @ V
    b = A @ torch.randn(6, dtype=torch.float64)
    x, inverse = 100 * torch.randn(100, 6), torch.linalg.pinv(A)
    plain = x - (x @ A.float().T - b.float()) @ inverse.float().T
    for name, y in (("A^+ in float32", plain), ("AffineSubspace", AffineSubspace(A, b)(x))):
        gap = (y.double() @ V.T - V @ inverse @ b).norm(dim=-1)
        print(f"distance / |y| from A y = b, condition 1e6: {name} {relative(gap, y):.1e}")


def costs() -> None:
    x, square = torch.randn(1024), torch.randn(256, 256)
    steps, ordered = microseconds(lambda: plain_steps(x)), microseconds(lambda: Ordered()(x))
    print(f"Ordered() over its plain formula, n = 1024: {ordered / steps:.1f}")
    mean, centred = microseconds(lambda: x - x.mean()), microseconds(lambda: SumToZero()(x))
    print(f"SumToZero() over x - mean, n = 1024: {centred / mean:.1f}")
    product = microseconds(lambda: square @ square)
    for f in (Toeplitz(), Symmetric()):
        print(f"{f} over a product, n = 256: {microseconds(lambda f=f: f(square)) / product:.1f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        ties()
        bounds()
        means()
        conditions()
        costs()
