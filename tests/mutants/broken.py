"""A copy of the sources with some places changed, and the tests run against it."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Edit(NamedTuple):
    """``old`` becomes ``new`` in ``file``."""

    file: str
    old: str
    new: str


def chosen(names: list[str]) -> list[str]:
    """Those that the command line names, all, or a part: ``--part 2/4`` is every fourth from the 2nd."""
    given = [word for word in sys.argv[1:] if word != "--write"]
    if given[:1] == ["--part"]:
        part, parts = map(int, given[1].split("/"))
        return names[part - 1 :: parts]
    if unknown := set(given) - set(names):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    return given or names


def failures(name: str, edits: Iterable[Edit], tests: Iterable[str], *options: str) -> set[str]:
    """Ids of the tests that fail on sources with ``edits`` made."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "src"
        shutil.copytree(ROOT / "src", target)
        for edit in edits:
            path = target / "constrainedparams" / edit.file
            text = path.read_text()
            if edit.old not in text:
                sys.exit(f"{name}: {edit.old!r} is not in {edit.file}")
            path.write_text(text.replace(edit.old, edit.new, 1))
        quiet = (
            "-q",
            "-n",
            "2",
            "--tb=no",
            "-rf",
            "-p",
            "no:cacheprovider",
            "-m",
            "not distributed and not slow",
        )
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *quiet, *options, *tests],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
    found = re.findall(r"^FAILED (\S+)", run.stdout, re.MULTILINE)
    if run.returncode and not found:
        # A change that cannot be imported or collected has been caught by no test.
        sys.exit(f"{name}: no test ran to a verdict\n{run.stdout}\n{run.stderr}")
    return set(found)
