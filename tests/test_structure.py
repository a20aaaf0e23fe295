"""The engine stays small: lines, length of functions, and one room for private names of torch."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

import constrainedparams

PACKAGE = Path(constrainedparams.__file__).parent
CORE = sorted((PACKAGE / "core").glob("*.py"))
ALL = sorted(PACKAGE.rglob("*.py"))


def code_lines(path):
    """Line numbers that hold code: no blank lines, comments or docstrings."""
    text = path.read_text()
    silent = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            silent |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(text.splitlines(), start=1)
    return {i for i, line in lines if line.strip() and line.strip()[0] != "#"} - silent


def test_the_engine_has_at_most_1200_lines():
    """As ``wc -l`` counts them: docstrings, comments and blank lines too."""
    assert sum(len(path.read_text().splitlines()) for path in CORE) <= 1200


@pytest.mark.parametrize("path", ALL, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_have_under_40_lines_of_code(path):
    code = code_lines(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            length = len(code & set(range(node.lineno, node.end_lineno + 1)))
            assert length < 40, f"{node.name}: {length} lines"


def private_names(path):
    """Names below torch that begin with an underscore."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id == "torch":
                yield node.attr
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            parts = [*node.module.split("."), *(alias.name for alias in node.names)]
            yield from (part for part in parts if part.startswith("_"))


@pytest.mark.parametrize("path", ALL, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_private_names_of_torch_are_in_one_file(path):
    if path != PACKAGE / "core" / "private.py":
        assert list(private_names(path)) == []


def test_nothing_is_missing_from_this_torch():
    from constrainedparams.core import private

    assert private.missing == []


def test_a_torch_without_a_private_name_falls_back_to_verified(monkeypatch):
    from constrainedparams.core import private

    monkeypatch.setattr(private, "missing", ["_C._len_torch_dispatch_stack"])
    w = pytest.warns(UserWarning, match="lacks _C._len_torch_dispatch_stack")
    import torch

    with w:
        layer = constrainedparams.Parametrized(torch.zeros(2), torch.exp)
    layer.x.detach().numpy()[:] = 1
    assert layer.y.tolist() == torch.exp(torch.ones(2)).tolist()


MUTANTS = Path(__file__).parent / "mutants"


def test_mutants_break_what_is_there():
    """A mutant whose text is gone would be noticed half an hour into ``make mutants`` only."""
    sys.path.insert(0, str(MUTANTS))
    try:
        run, layers = importlib.import_module("run"), importlib.import_module("layers")
    finally:
        sys.path.remove(str(MUTANTS))
    edits = [(m.name, m.file, m.old) for m in run.MUTANTS]
    edits += [(name, e.file, e.old) for name, group in layers.LAYERS.items() for e in group]
    assert len(run.MUTANTS) >= 25
    for name, file, old in edits:
        assert old in (PACKAGE / file).read_text(), f"{name}: {old!r} is not in {file}"
