"""Prints docs/sets.md: the table of sets from the sets themselves and the rows that test them.

``make docs`` writes the page; a test compares it with what this prints. What the sets do not say of
themselves (formulas in short, conventions, who else has which set) is in docs/sets.toml.
"""

import dataclasses
import inspect
import re
import sys
import tomllib
from pathlib import Path

import torch

import constrainedparams
from constrainedparams import Constraint, ConstraintError
from constrainedparams.attach.combinations import JOINT
from constrainedparams.sets.matrix_constraint import MatrixConstraint
from constrainedparams.testing import ROWS, Case

HERE = Path(__file__).resolve().parent
DATA = tomllib.loads((HERE / "sets.toml").read_text())
RECIPES = (HERE / "recipes.md").read_text()
_SIZES = {"radius", "lower", "upper"}  # numbers that change no property
HEAD = """# The sets

Written by `make docs` from the sets, from the rows of the conformance suite that test what is said
here, and from docs/sets.toml. [how-to-choose.md](how-to-choose.md) helps to choose among them;
formulas with their sources, shapes and errors are in the docstrings:
`help(constrainedparams.Sphere)`.

y = f(x) is on the set, x is free. *Onto*: what f reaches. *One-to-one*: in the numbers of x that f
reads (for a given base). *Smooth*: derivatives of all orders at every x. *f(0)*: where weight decay
on x pulls y. log |det J| is there where f is one-to-one onto an open set, in the free entries of y.
Every set takes float32 and float64; bfloat16 and float16 are computed in float32 and rounded;
*complex* says whether there is a complex version. Sets of matrices take `view=`, an einops pattern, sets of vectors `dim=`; leading
axes are a batch.
"""


def sentence(cls: type) -> str:
    """The first sentence of the docstring: what the set holds."""
    text = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
    first = re.split(r"(?<=[^.][^.])\.(?= [A-Z]|$)", text)[0]
    return re.sub(r":\w+:`|`", "", re.sub(r": y = .*", "", first))  # the formula has its column


def shapes(cls: type) -> str:
    """What the docstring says after "Shapes:"."""
    text = inspect.cleandoc(cls.__doc__ or "")
    found = re.search(r"Shapes: (.*?)(?:;|\.\s|\.$)", text, re.DOTALL)
    return " ".join(found[1].split()).replace("``", "`") if found else ""


def cell(text: str) -> str:
    return text.replace("\\|", "|").replace("|", "\\|").replace("``", "`")


def has_log_det(case: Case) -> bool:
    y = case.constraint.sample(case.shape, generator=torch.Generator().manual_seed(0))
    found = case.constraint.right_inverse(y)
    try:
        case.constraint.log_abs_det_jacobian(found[0] if isinstance(found, tuple) else found)
    except ConstraintError:
        return False
    return True


def facts(case: Case) -> tuple[str, ...]:
    c = case.constraint
    yes = {True: "yes", False: "no"}
    marks = (yes[c.one_to_one], yes[c.smooth], c.decay_target, yes[c.has_complex])
    return c.onto, *marks, yes[has_log_det(case)]


def changed(constraint: Constraint) -> dict[str, str]:
    """The options that are not at their default, the ways to read a tensor left out."""
    told = {}
    for option in dataclasses.fields(constraint):
        value = getattr(constraint, option.name)
        if option.name not in ("view", "sizes", "dim") and value != option.default:
            plain = isinstance(value, bool | int | float | str) or dataclasses.is_dataclass(value)
            shown = f"float('{value}')" if value == float("inf") else repr(value)
            told[option.name] = shown if plain else "..."
    return told


def label(constraint: Constraint, first: Constraint) -> str:
    """The name of the set, with the options by which its line differs from the first one."""
    told, known = changed(constraint), changed(first)
    new = {k: v for k, v in told.items() if known.get(k) != v}
    if set(new) - _SIZES:
        new = {k: v for k, v in new.items() if k not in _SIZES}
    text = ", ".join(f"{k}={v}" for k, v in new.items())
    return f"{type(constraint).__name__}{f'({text})' if text else ''}"


def lines_of(cls: type, cases: list[Case]) -> list[str]:
    """One line of the table for each combination of properties."""
    cases = sorted(cases, key=lambda case: len(changed(case.constraint)))
    first, known, lines = cases[0].constraint, set(), []
    formula = cell(DATA["formulas"].get(cls.__name__, "see its docstring"))
    maps = sorted({m for c in cases if (m := getattr(c.constraint, "map", None))})
    formula += f"; `map=` {', '.join(map(repr, maps))}" if len(maps) > 1 else ""
    for case in cases:
        found = facts(case)
        name = label(case.constraint, first)
        if found in known or (name == cls.__name__ and lines):
            continue
        known.add(found)
        opening = (cell(sentence(cls)), formula) if not lines else ("", "")
        closing = (cell(shapes(cls)),) if not lines else ("",)
        columns = (f"`{name}`", *opening, *(cell(text) for text in found), *closing)
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def kind(cls: type, constraint: Constraint) -> str:
    if issubclass(cls, MatrixConstraint):
        return "Matrices"
    return "Vectors and tensors" if constraint.event_dim else "Numbers"


def table() -> list[str]:
    head = (
        "set | holds | f | onto | one-to-one | smooth | f(0) | complex | log \\|det J\\| | shapes"
    )
    parts: dict[str, list[str]] = {"Numbers": [], "Vectors and tensors": [], "Matrices": []}
    for name in constrainedparams.__all__:
        cls = getattr(constrainedparams, name)
        if inspect.isclass(cls) and issubclass(cls, Constraint) and not inspect.isabstract(cls):
            cases = [case for case in ROWS if type(case.constraint) is cls]
            parts[kind(cls, cases[0].constraint)] += lines_of(cls, cases)
    lines = []
    for title, rows in parts.items():
        lines += [f"## {title}", "", f"| {head} |", f"|{'---|' * 10}", *rows, ""]
    return lines


def packed() -> list[str]:
    """The sets whose x has another shape than y, with a shape and what the docstring says."""
    lines = []
    for case in ROWS:
        own = case.constraint.unconstrained_shape(case.shape)
        if own != case.shape:
            lines.append(f"| `{case.constraint!r}` | {case.shape} | {own} |")
    return list(dict.fromkeys(lines))


def there(name: str) -> bool:
    return hasattr(constrainedparams, name.partition("(")[0])


def ending(row: dict) -> str:
    """Present, second tier or refused."""
    note = f" ({row['note']})" if "note" in row else ""
    if "here" in row and all(map(there, row["here"])):
        return f"present: {', '.join(f'`{name}`' for name in row['here'])}{note}"
    if "refused" in row:
        return f"refused: {row['refused']}"
    recipe = row.get("recipe", "own")
    return f"second tier: [here is how to write it](#{recipe}){note}"


def words(pairs: list[list[str]]) -> str:
    """Their word and our set, for each."""
    return "; ".join(f"{theirs}: `{ours}`" for theirs, ours in pairs)


def page() -> str:
    lines = [HEAD, *table(), "## Conventions", "", "| set | convention |", "|---|---|"]
    lines += [
        f"| `{c['set']}` | {cell(c['text'])} |" for c in DATA["conventions"] if there(c["set"])
    ]
    lines += ["", "x of another shape than y (the packing is in the docstring):", ""]
    lines += ["| set | y | x |", "|---|---|---|", *packed(), ""]
    lines += ["## Two sets at once", ""]
    lines += [REFUSED, "", "| sets | both |", "|---|---|"]
    for (a, b), joint in JOINT.items():
        made, bracket, when = joint.rpartition(")")
        lines += [f"| {a}, {b} | `{made}{bracket}`{when} |"]
    lines += ["", RECIPES, "## Who has which set", "", DATA_LEGEND, ""]
    lines += ["| set | elsewhere | here |", "|---|---|---|"]
    lines += [f"| {r['set']} | {r['systems']} | {cell(ending(r))} |" for r in DATA["who"]]
    lines += ["", "## Under other names", "", OTHER_NAMES, "", "| library | its word: here |"]
    lines += ["|---|---|", *(f"| {n['system']} | {words(n['pairs'])} |" for n in DATA["names"])]
    return "\n".join(lines).rstrip() + "\n"


REFUSED = """\
A second set registered on a constrained parameter is refused: the map onto the second would take y
off the first. These are two at once:"""
OTHER_NAMES = """\
What a library calls a set, where it is not what it is called here; a, b, r and A are numbers and a
matrix. Some read a matrix by columns: `dim=0` says so. `from_distributions` reads constraints of
torch.distributions and Pyro, `adopt` models of torch's parametrizations and geotorch."""
DATA_LEGEND = """\
TD torch.distributions (with a map), TP torch.nn.utils.parametrizations, GT geotorch, GO geoopt, PM
pymanopt, MO Manopt, MJ Manifolds.jl, GS geomstats, MT McTorch, RX rieoptax, ST Stan, TF TensorFlow
Probability, NP NumPyro, PY PyMC, GP gpytorch, KE Keras, JX optax and jaxopt, CH chop, NQ NumQI, BJ
Bijectors.jl, LP orthogonium and torchlip, OP optimiser-side code, PE PEFT."""


if __name__ == "__main__":
    sys.stdout.write(page())
