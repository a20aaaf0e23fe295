"""The curves of the benchmark of kernels: how cost grows with size."""

from pathlib import Path
from typing import Any

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "kernels.png"


def draw(found: dict[str, Any], path: Path = PICTURE) -> None:
    """Milliseconds over what varies, in logarithms; the dashed lines are the slopes 2 and 3."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4.5), dpi=90, sharey=True)
    for name, part in found["growth"].items():
        map_, shape = name.split(", ")
        axes = panels[0] if shape == "n x n" else panels[1]
        x = [each[-1] for each in part["shapes"]]
        axes.plot(x, part["milliseconds"], "o-", label=f"{map_}, slope {part['slope']:.1f}")
        axes.set_title(shape)
        axes.set_xlabel("n" if shape == "n x n" else "k")
    for axes, power, top in ((panels[0], 3, 2048), (panels[1], 2, 1024)):
        ends = [top / 16, top]
        axes.plot(ends, [1e3 * (x / top) ** power for x in ends], "--", color="grey")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.legend()
    panels[0].set_ylabel("ms, a value and its gradient")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
