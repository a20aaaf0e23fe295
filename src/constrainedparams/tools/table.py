"""What the whole-model tools answer: rows by qualified name, printed as a table."""

from dataclasses import fields
from typing import Any, TypeVar

from ..functions.describe import describe

Row = TypeVar("Row")


class Table(dict[str, Row]):
    """A dict from qualified names to rows; ``repr`` and ``print`` show it as a table."""

    def __repr__(self) -> str:
        if not self:
            return "no constrained parameters"
        columns = [f.name for f in fields(next(iter(self.values())))]  # type: ignore[arg-type]
        head = ["name", *(name.replace("_", " ") for name in columns)]
        body = [[key, *(_cell(getattr(row, c)) for c in columns)] for key, row in self.items()]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = [head, ["-" * width for width in widths], *body]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value) if isinstance(value, str | int | tuple) else describe(value)
