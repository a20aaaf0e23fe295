"""What the once-per-change engine costs, in time and in memory, beside its limit and torch's cache.

Prints a page of tables with the goals and whether they hold, and keeps the numbers as JSON. The
full run takes about a quarter of an hour on an idle machine; --quick shows that it works.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from . import changes, memory, reads, scale, training
from .page import PAGE, page, publish

PARTS = {
    "training": training.measured,
    "reads": reads.measured,
    "changes": changes.measured,
    "memory": memory.measured,
    "scale": scale.measured,
}
DOCS = Path(__file__).resolve().parents[1] / "docs"
KEPT = DOCS / "bench-engine.json"


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if "model name" in line]
        if (info.exists())
        else []
    )
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads used": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="toy sizes, a few seconds")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="some parts")
    parser.add_argument("--output", type=Path, default=Path("results/bench-engine.json"))
    parser.add_argument("--publish", action="store_true", help="put the run into docs/")
    parser.add_argument("--profile", action="store_true", help="where a change of x costs time")
    parser.add_argument("--read", type=Path, help="show a kept run instead of measuring")
    chosen = parser.parse_args()
    if chosen.publish and (chosen.quick or chosen.only != list(PARTS)):
        parser.error("--publish wants a full run: leave out --quick and --only.")
    return chosen


def measured(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run the parts; what is done is kept at once, so that an interruption loses one part."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "command": "make bench-engine" + (" ARGS=--quick" if chosen.quick else ""),
        "quick": chosen.quick,
        "machine": machine(),
    }
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    for name in chosen.only:
        results[name] = PARTS[name](quick=chosen.quick)
        chosen.output.write_text(json.dumps(results, indent=1) + "\n")
    return results


def main() -> None:
    chosen = options()
    if chosen.profile:
        changes.profiled()
        return
    results = json.loads(chosen.read.read_text()) if chosen.read else measured(chosen)
    print(page(results))
    if chosen.publish:
        KEPT.write_text(json.dumps(results, indent=1) + "\n")
        publish("engine", page(results))
        print(f"published: {KEPT}, {PAGE}")
    elif not chosen.read:
        print(f"numbers: {chosen.output}")


if __name__ == "__main__":
    main()
