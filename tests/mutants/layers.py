"""Take out one layer of freshness at a time: exactly the events that it alone rescues must fail.

``python tests/mutants/layers.py [layer ...]`` (or ``--part 1/2``) compares the tests that fail without each layer with
``layers.json`` and exits 1 when they differ; ``--write`` writes that file, to be read in the diff.
"""

import json
import sys
from pathlib import Path

from broken import Edit, chosen, failures

EVENTS = Path(__file__).with_name("layers.json")
TESTS = sorted(
    f"tests/engine/{path.name}"
    for pattern in ("freshness", "writes", "hit")
    for path in Path("tests/engine").glob(f"test_{pattern}*.py")
)
CLASSES, KEY, SLOT = "attach/classes.py", "core/key.py", "core/slot.py"
LAYERS = {
    "bypass": [
        Edit(SLOT, "if private.transforming(x := self.x_in(module)):", "if False:"),
        Edit(CLASSES, "if torch.compiler.is_compiling() and not slot.override:", "if False:"),
        Edit(CLASSES, "and not private.dispatch_modes()", ""),
        Edit(CLASSES, "and private.tracing_state() is None", ""),
    ],
    "version of x": [
        Edit(CLASSES, "record.alias._version == record.version", "True"),
        Edit(SLOT, "and self.alias._version == self.version", ""),
        Edit(SLOT, "return self.alias._version != self.version or", "return"),
        Edit(KEY, "versions and alias._version != version", "False"),
    ],
    "memory of x": [
        Edit(CLASSES, "and x.data_ptr() == record.pointer", ""),
        Edit(SLOT, "and x.data_ptr() == self.pointer", ""),
    ],
    "requires_grad of x": [
        Edit(CLASSES, "and x.requires_grad is record.requires_grad", ""),
        Edit(SLOT, "and x.requires_grad is self.requires_grad", ""),
    ],
    "map state and parameters of f": [
        Edit(CLASSES, "and record.companions.same()", ""),
        Edit(SLOT, "if not record.companions.same():", "if False:"),
    ],
    "optimiser hooks": [Edit("core/optimizers.py", "if p._version == before]", "if False]")],
    "assignment of x": [Edit(CLASSES, 'slot.drop("x was assigned")', "pass")],
    "guarded .data": [Edit("core/tensors.py", "x.__class__ = Unconstrained", "pass")],
    "version of y": [
        Edit(CLASSES, "and record.alias_y._version == record.version_y", ""),
        Edit(SLOT, "return y is not None and y._version != self.version_y", "return False"),
        Edit("core/writes.py", "if y is not None and y._version != version:", "if False:"),
    ],
    "updated()": [
        Edit(SLOT, "told=True)\n        self.drop(", "told=True)\n        reason[0] == 'u' or self.drop(")
    ],
    "snapshot of verified mode": [
        Edit(SLOT, "if record.snapshot is not None and not record.snapshot.same(x):", "if False:"),
        Edit(CLASSES, "and record.snapshot is None", ""),
    ],
}  # fmt: skip


def main() -> None:
    write = "--write" in sys.argv
    names = chosen(list(LAYERS))
    known = json.loads(EVENTS.read_text()) if EVENTS.exists() else {}
    wrong = 0
    if failures("nothing", [], TESTS):
        sys.exit("the tests fail on the code as it is: nothing they catch would mean anything")
    for name in names:
        found = sorted(
            test.removeprefix("tests/engine/") for test in failures(name, LAYERS[name], TESTS)
        )
        expected = known.get(name, [])
        for test in () if write else sorted({*found} ^ {*expected}):
            wrong += 1
            print(f"without {name}: {test} {'fails' if test in found else 'passes'}", flush=True)
        wrong += not found  # a layer that rescues nothing must go
        print(f"{len(found):4} events fail without: {name}", flush=True)
        known[name] = found
    if write:
        EVENTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
