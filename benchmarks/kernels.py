"""The exponential of a skew matrix, there and back, in units of one matrix product of its size.

Prints a table and keeps the numbers as JSON: time over that of a product in the same round, for
ours, torch.matrix_exp and torch's orthogonal parametrization, and the products that ours takes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from constrainedparams.numerics.skew_exponential import expm_skew

from .engine import machine
from .pairs import Step, interleaved, ratio, rounds_within

SIZES, NORMS = (64, 128, 256, 512, 1024), (0.02, 0.2, 2.0)
COLUMNS = ("ours", "torch.matrix_exp", "torch orthogonal")


def skew(n: int, norm: float) -> Tensor:
    """Random, of that spectral norm."""
    x = torch.randn(n, n, dtype=torch.float64)
    a = x - x.T
    return (norm / torch.linalg.matrix_norm(a, 2) * a).float()


def there_and_back(function: Any, a: Tensor, g: Tensor) -> Step:
    leaf = a.clone().requires_grad_()
    return lambda: torch.autograd.grad(function(leaf), leaf, g)


def torchs(a: Tensor, g: Tensor) -> Step:
    """torch.nn.utils.parametrizations.orthogonal at the same matrix."""
    layer = nn.Linear(len(a), len(a), bias=False)
    parametrizations.orthogonal(layer, orthogonal_map="matrix_exp", use_trivialization=False)
    raw = layer.parametrizations.weight.original
    raw.data.copy_(a.tril())
    return lambda: torch.autograd.grad(layer.weight, raw, g)


def products(a: Tensor, g: Tensor) -> float:
    with FlopCounterMode(display=False) as count:
        there_and_back(expm_skew, a, g)()
    return count.get_total_flops() / (2 * len(a) ** 3)


def measured(n: int, norm: float, seconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    a, g = skew(n, norm), torch.randn(n, n)
    repeats = max(1, 2**21 // n**3 * 8)  # a single small product is too short for the clock
    steps: dict[str, Step] = {
        "product": lambda: [a @ g for _ in range(repeats)],
        "ours": there_and_back(expm_skew, a, g),
        "torch.matrix_exp": there_and_back(torch.matrix_exp, a, g),
        "torch orthogonal": torchs(a, g),
    }
    times = interleaved(steps, rounds_within(seconds, steps, least=7, most=200))
    times["product"] = [t / repeats for t in times["product"]]
    return {name: ratio(times, name, "product") for name in COLUMNS} | {"products": products(a, g)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, a few seconds")
    parser.add_argument("--output", type=Path, default=Path("results/bench-kernels.json"))
    chosen = parser.parse_args()
    sizes, seconds = (SIZES[:2], 0.5) if chosen.quick else (SIZES, 10.0)
    found: dict[str, Any] = {"machine": machine(), "exp": {}}
    print("Times over one product of the same size, there and back, median [95 % interval]")
    print(f"{'n':>5} {'norm':>5} {'products':>9}", *(f"{name:>24}" for name in COLUMNS))
    for n in sizes:
        for norm in NORMS:
            row = found["exp"][f"{n}, {norm}"] = measured(n, norm, seconds)
            cells = []
            for name in COLUMNS:
                e = row[name]
                between = f" [{e['low']:.1f}, {e['high']:.1f}]" if e["low"] is not None else ""
                cells.append(f"{e['median']:.1f}{between}".rjust(24))
            print(f"{n:>5} {norm:>5} {row['products']:>9.1f}", *cells, flush=True)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
