"""How exact each map is, beside the same map in torch, geotorch or SciPy.

Prints one line per map: errors of the value, of its distance from the set and of the gradient, the
worst over sizes, norms, condition numbers, repeated eigenvalues and scales of the gradient, against
double precision; keeps all rows as JSON. What it finds does not depend on how busy a machine is.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .engine import machine
from .maps import MAPS
from .page import publish, table
from .points import Map, Point, wide
from .truths import by_differences, value_exactly

DOCS = Path(__file__).resolve().parents[1] / "docs"
KEPT = DOCS / "bench-accuracy.json"
SCALES = (2.0**-20, 2.0**-10, 1.0, 2.0**10, 2.0**20)  # 1e-6, 1e-3, 1, 1e3, 1e6
MOST = 4.0  # units of eps sqrt(n)
SPREAD = 1.5  # of the gradient's error over the scales
LEAST = 0.5  # units: below, an error is what rounding the result alone may be
LIBRARIES = ("ours", "torch", "geotorch", "scipy")
INTRO = """\
The same map at the same x in single precision, in other libraries by their own functions (torch:
`parametrizations.orthogonal`, `matrix_exp`, else the formula as autograd differentiates it),
against double precision by another route: eigenvalues, SVD, QR, Cholesky, reflectors one by one,
SciPy. An error is in Frobenius norms relative to the result, pooled over the draws of a row, in
units of eps sqrt(n). The distance from the set is |y^H y - I|, missing symmetry and positivity,
what the norm has above 1, singular values beyond their bounds or eigenvalues beyond theirs, a
determinant that is not positive, |y^T J y - J| over |y|^2, or the error of a sum, a length or a
diagonal, in the same units. Each number is the worst over the rows of a map: n from 2 to 512, norms
from 1e-6 to 30, condition numbers to 1e6, repeated eigenvalues, gradients of size 1e-6 to 1e6
(powers of two, so that nothing but the size changes). `scales`: by what factor the error of the
gradient differs between these sizes, errors below half a unit counting as that. `oracle`: how far
double precision is from mpmath with 60 digits. `none`: what came was no number. The bound of each
row: value, distance and gradient at most 4 units or torch's, scales at most 1.5. Value and gradient
of the spectral ball, of bounded singular values, of definite matrices and of correlation L L^T are
those of the kernels, without the margin that the sets keep to their boundary; the distance is that
of the sets.
"""
INVERSES = """\
The kernels of right inverses compute in double precision whatever the dtype of y, and have no
derivative: errors of the value, in units of eps sqrt(n) of double precision times the condition of
f there (by how much more than its input, relative to size, f changes in a random direction), beside
`solve_discrete_lyapunov`, `solve_continuous_lyapunov` and `logm` of SciPy. The truth is better than
double: solutions refined by residuals with 64 bits, logarithms of dense matrices that are exact and
similar to blocks with a logarithm in closed form. Eigenvalues of A as near to the circle, or as a
share of the norm to the axis, as 1 over a condition number to 1e6; those of Y, each with one
eigenvector, that far apart; norms of A (of Y - I) from 1e-6 to 30, in the first equation to 0.9.
The bound of each row: at most 4 units or SciPy's. In both tables the last column says where n goes
less far than 512 (`--largest`).
"""


# one row ------------------------------------------------------------------------------------------


def units(off: float, size: float, shape: tuple[int, int], eps: float) -> float:
    """Infinite where it is no number."""
    found = off / (size or 1.0) / (eps * shape[0] ** 0.5)
    return found if math.isfinite(found) else math.inf


def draws(n: int, quick: bool) -> int:
    """A 2 x 2 gradient is one number: several of them make an error that means something."""
    return 3 if quick else 12 if n <= 16 else 2 if n <= 128 else 1


def measured(f: Map, at: Point, quick: bool) -> dict[str, Any]:
    """Errors of each library, in units, of the value, the distance, and the gradient by scale."""
    torch.manual_seed(0)
    names = ["ours", *f.others]
    off: dict[str, list[list[float]]] = {name: [] for name in names}  # a list for each draw
    size: list[list[float]] = []
    distance = dict.fromkeys(names, 0.0)
    for _ in range(draws(at.shape[0], quick)):
        x = f.draw(at, f.dtype).to(f.dtype)
        g = torch.randn(at.shape, dtype=f.dtype)
        y, pull = f.oracle(x.to(wide(f.dtype)))
        pulled = None if pull is None else pull(g.to(y.dtype))
        true = [y, *(s * pulled for s in SCALES if pulled is not None)]
        size.append([f.condition(x) ** 2 * _square(t) for t in true])
        for name, function in {"ours": f.ours, **f.others}.items():
            found = [function(x)] if pulled is None else evaluated(function, x, g)
            gaps = zip(found, true, strict=True)
            off[name].append([_square(a.to(t.dtype) - t) for a, t in gaps])
            if f.distance is not None:
                ours = f.on_set is not None and name == "ours"
                on_set = f.on_set(x) if ours and f.on_set is not None else found[0]
                distance[name] = max(distance[name], f.distance(on_set.to(y.dtype)))
    eps, sizes = torch.finfo(f.dtype).eps, _pooled(size)
    found_units = {
        name: [units(a, b, at.shape, eps) for a, b in zip(_pooled(v), sizes, strict=True)]
        for name, v in off.items()
    }
    return {
        "at": str(at),
        "value": {name: v[0] for name, v in found_units.items()},
        "distance": None
        if f.distance is None
        else {name: units(d, 1.0, at.shape, eps) for name, d in distance.items()},
        "gradient": None if pulled is None else {name: v[1:] for name, v in found_units.items()},
    }


def _pooled(squares: list[list[float]]) -> list[float]:
    """Norms over all draws."""
    return [sum(column) ** 0.5 for column in zip(*squares, strict=True)]


def _square(t: Tensor) -> float:
    return float(t.abs().square().sum())


def evaluated(function: Any, x: Tensor, g: Tensor) -> list[Tensor]:
    """The value and the gradients by scale."""
    leaf = x.clone().requires_grad_()
    y = function(leaf)
    return [
        y.detach(),
        *(torch.autograd.grad(y, leaf, s * g, retain_graph=True)[0] for s in SCALES),
    ]


def control(f: Map) -> float | None:
    """The error of the oracle in these units, against 60 digits, at 4 x 4 or 4 x 2."""
    if f.exactly is None:
        return None
    n, k = f.shapes[-1]
    worst = 0.0
    for kind, numbers in f.kinds.items():
        torch.manual_seed(0)
        at = Point((4, 4 if n == k else 2), kind, numbers[len(numbers) // 2])
        x, g = f.draw(at, f.dtype).to(f.dtype).to(wide(f.dtype)), torch.randn(at.shape).double()
        y, pull = f.oracle(x)
        if pull is None:
            pairs = [(y, value_exactly(f.exactly, x))]
        else:
            pairs = list(zip((y, pull(g)), by_differences(f.exactly, x, g), strict=True))
        for found, exact in pairs:
            off, size = float(torch.linalg.norm(found - exact)), float(torch.linalg.norm(exact))
            size = f.condition(x) * size
            worst = max(worst, units(off, size, at.shape, torch.finfo(f.dtype).eps))
    return worst


# what is promised ---------------------------------------------------------------------------------


def spread(errors: list[float]) -> float:
    """The largest over the least; 1 for what is never a number."""
    if math.isinf(min(errors)):
        return 1.0
    return max(max(e, LEAST) for e in errors) / min(max(e, LEAST) for e in errors)


def misses(row: dict[str, Any]) -> Iterator[str]:
    """What a row is above its bound, in words."""
    peer = "torch" if "torch" in row["value"] else "scipy"
    single = {name: row[name] for name in ("value", "distance") if row[name] is not None}
    pairs = {name: (v["ours"], v[peer]) for name, v in single.items()}
    ours = None if row["gradient"] is None else row["gradient"]["ours"]
    if ours is not None:
        for scale, pair in zip(SCALES, zip(ours, row["gradient"][peer], strict=True), strict=True):
            pairs[f"gradient of size {scale:.0e}"] = pair
    for what, (found, other) in pairs.items():
        if not found <= max(other, MOST):
            yield f"{row['at']}: {what} {_shown(found)}, {peer} {_shown(other)}"
    if ours is not None and not spread(ours) <= SPREAD:
        yield f"{row['at']}: scales {spread(ours):.2f}"


# the page -----------------------------------------------------------------------------------------


def _shown(number: float) -> str:
    return "none" if math.isinf(number) else f"{number:.2g}" if number < 100 else f"{number:.0e}"


def _cell(rows: list[dict[str, Any]], what: str) -> str:
    """The worst of each library: ours / torch / geotorch, or ours / SciPy."""
    if rows[0][what] is None:
        return ""
    names = [name for name in LIBRARIES if name in rows[0][what]]
    found = [[row[what][name] for row in rows] for name in names]
    flat = [[max(v) if isinstance(v, list) else v for v in by_name] for by_name in found]
    return " / ".join(_shown(max(v)) for v in flat)


def lines(found: dict[str, Any]) -> str:
    """Markdown of a run."""
    maps, inverses, missed = [], [], []
    for name, part in found["maps"].items():
        rows = part["rows"]
        over = [text for row in rows for text in misses(row)]
        missed += [f"- {name}, {text}" for text in over]
        held = len(rows) - len({text.split(": ")[0] for text in over})
        n = max(int(row["at"].split()[0]) for row in rows)
        reach = f"{held} of {len(rows)} rows" + ("" if n == 512 else f", n to {n}")
        verdict = f"{'holds' if held == len(rows) else 'missed'} ({reach})"
        exact = "" if part["control"] is None else f"{part['control']:.0e}"
        if rows[0]["gradient"] is None:
            inverses.append([name, _cell(rows, "value"), exact, verdict])
            continue
        cells = [_cell(rows, what) for what in ("value", "distance", "gradient")]
        scales = [max(spread(r["gradient"][who]) for r in rows) for who in ("ours", "torch")]
        maps.append([name, *cells, f"{scales[0]:.2f} / {_shown(scales[1])}", exact, verdict])
    parts = [INTRO, f"Command: `{found['command']}`\n"]
    if "--quick" in found["command"]:
        few = "A quick run: 3 draws of a row, too few for the error of a 2 x 2 gradient.\n"
        parts.insert(0, few)
    parts += ["\n".join(f"- {key}: {value}" for key, value in found["machine"].items()) + "\n"]
    if maps:
        whose = "f: ours / torch / geotorch"
        parts += [
            table([whose, "value", "distance", "gradient", "scales", "oracle", "bound"], maps)
        ]
    if inverses:
        parts += [INVERSES, table(["ours / SciPy", "value", "oracle", "bound"], inverses)]
    if missed:
        parts += ["Above the bound:\n", "\n".join(missed) + "\n"]
    return "\n".join(parts)


def rounded(found: Any) -> Any:
    """Three digits; None for what is no number, as JSON has no infinity."""
    if isinstance(found, dict):
        return {key: rounded(value) for key, value in found.items()}
    if isinstance(found, list):
        return [rounded(value) for value in found]
    if isinstance(found, float):
        return float(f"{found:.3g}") if math.isfinite(found) else None
    return found


def as_text(found: dict[str, Any]) -> str:
    return json.dumps(rounded(found)).replace('{"at"', '\n {"at"') + "\n"


def restored(kept: dict[str, Any]) -> dict[str, Any]:
    """What ``rounded`` left of the rows of a run, infinite again where it was no number."""
    for part in kept["maps"].values():
        for row in part["rows"]:
            for errors in (row[what] for what in ("value", "distance", "gradient") if row[what]):
                for name, found in errors.items():
                    many = found if isinstance(found, list) else [found]
                    numbers = [math.inf if e is None else e for e in many]
                    errors[name] = numbers if isinstance(found, list) else numbers[0]
    return kept


def with_kept(found: dict[str, Any]) -> dict[str, Any]:
    """A run of some maps with the rows that docs/ has of the others, in the order of ``MAPS``."""
    kept = restored(json.loads(KEPT.read_text()))
    both = {**kept["maps"], **found["maps"]}
    return {**kept, "maps": {name: both[name] for name in MAPS if name in both}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, a few seconds")
    parser.add_argument("--only", help="maps whose name contains this, and no more than those")
    parser.add_argument("--largest", type=int, default=512, help="n up to this")
    parser.add_argument("--output", type=Path, default=Path("results/bench-accuracy.json"))
    parser.add_argument("--publish", action="store_true", help="put what was run into docs/")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    command = "make bench-accuracy" + (" ARGS=--quick" if chosen.quick else "")
    if chosen.only:
        command = f'make bench-accuracy ARGS="--only {chosen.only}"'
    found: dict[str, Any] = {"command": command, "machine": machine(), "maps": {}}
    work = {n: f for n, f in MAPS.items() if (chosen.only or "") in n}
    points = {
        name: [at for at in f.points(chosen.quick) if at.shape[0] <= chosen.largest]
        for name, f in work.items()
    }
    with tqdm(total=sum(map(len, points.values()))) as bar:
        for name, f in work.items():
            bar.set_description(name)
            rows = []
            for at in points[name]:
                rows.append(measured(f, at, chosen.quick))
                bar.update()
            found["maps"][name] = {"control": control(f), "rows": rows}
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(as_text(found))
    print(lines(found))
    if chosen.publish:
        found = with_kept(found) if chosen.only else found
        KEPT.write_text(as_text(found))
        publish("accuracy", lines(found))


if __name__ == "__main__":
    main()
