"""Writes docs/events.md from the tables: ``make events``."""

from pathlib import Path

from . import rows

PATH = Path(__file__).resolve().parents[2] / "docs" / "events.md"
INTRODUCTION = """\
# Events: what makes a cached value stale

For each event a test warms the cache, lets it happen and compares value and gradient of the next read with
the model that evaluates f at every read. It also counts how often f ran at that read. "x changes" says
whether the values of x differ afterwards, "f runs" is the count, as asserted; **spurious** marks a run
that gave the old value again: it costs one evaluation and is never wrong. p stands for
`layer._weight_unconstrained`.

`make test` runs the events of torch, `make test-ecosystem` those of other packages, in an environment of its
own. `make events` writes this page from the tables under tests/events.
"""
HIDDEN = """\
## Rows that no signal of torch reveals

{count} writes leave object, memory and version counter of x as they were and fire no optimiser hook. After
those that are not noticed call what the table says; registered with `update="verified"` each of them is
noticed without a call. Both are tested for every row.

| event | noticed | call after it |
|---|---|---|
"""
WHY = {
    "gpytorch": "parameters of an f that is a module are watched as x is",
    "DTensor": "each all-gather of FSDP2 sets x anew",
}


def facts():
    """{row: (x changes, evaluations)} of what happens to one parameter."""
    found = {name: (e.changes, e.evaluations) for name, e in (rows.EVENTS | rows.ECOSYSTEM).items()}
    return found | {row: tuple(rest) for row, (_, *rest) in (rows.SPECIAL | rows.PROCESSES).items()}


def hidden():
    """[(row, evaluations, what to call)]."""
    tables = rows.EVENTS | rows.ECOSYSTEM
    found = {name: (e.evaluations, e.tell) for name, e in tables.items() if e.tell}
    for row in (*rows.COLLECTIVES, *rows.SHARDED):
        found[row] = rows.PROCESSES[row][2], "layer.weight.updated()"
    order = [row for names in rows.sections().values() for row in names]
    return [(row, *found[row]) for row in order if row in found]


def _cell(text):
    return text.replace("|", "\\|")


def _row(name):
    if name in rows.ABSENT:
        return f"| {_cell(name)} | | | not run: {rows.ABSENT[name]} |"
    changes, evaluations = facts()[name]
    tell = {row: tell for row, _, tell in hidden()}.get(name, "")
    note = "**spurious**" if changes is False and evaluations else ""
    note = f"silent: `{tell}`" if tell and not evaluations else note
    changed = {True: "yes", False: "no", None: "-"}[changes]
    return f"| {_cell(name)} | {changed} | {evaluations} | {note} |"


def _hidden_row(row, evaluations, tell):
    why = next((reason for word, reason in WHY.items() if word in row), "")
    noticed = f"yes: {why}" if evaluations else "no"
    return f"| {_cell(row)} | {noticed} | {'' if evaluations else f'`{tell}`'} |"


def render():
    parts = [INTRODUCTION, HIDDEN.format(count=len(hidden()))]
    parts[1] += "\n".join(_hidden_row(*entry) for entry in hidden()) + "\n"
    for title, names in rows.sections().items():
        if set(names) <= set(rows.FORMS):
            table = "| form | held by |\n|---|---|\n"
            table += "\n".join(f"| {_cell(n)} | `{rows.FORMS[n]}` |" for n in names)
        else:
            table = "| event | x changes | f runs | |\n|---|---|---|---|\n"
            table += "\n".join(_row(name) for name in names)
        parts.append(f"## {title}\n\n{table}\n")
    spurious = [name for name, (changes, n) in facts().items() if changes is False and n]
    parts.append(
        f"## The sum\n\n{sum(map(len, rows.sections().values()))} rows, {len(rows.ABSENT)} of them "
        f"not run here; {len(spurious)} spurious recomputations.\n"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    PATH.write_text(render())
    print(PATH)
