"""Draws the pictures of docs/how-to-choose.md into docs/pictures: `make pictures`."""

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from constrainedparams import (
    Constraint,
    Interval,
    Parametrized,
    PositiveDefinite,
    Simplex,
    SpecialOrthogonal,
    Sphere,
)

FOLDER = Path(__file__).parent / "pictures"
BLUE, RED, GREY = "#2b6cb0", "#c53030", "#a0aec0"
LINES = torch.linspace(-4, 4, 17, dtype=torch.float64)
FINE = torch.linspace(-4, 4, 201, dtype=torch.float64)


def grid(dims: tuple[Tensor, Tensor] = (LINES, FINE)) -> list[Tensor]:
    """Lines of a plane in both directions: tensors (points, 2)."""
    across, along = dims
    one = [torch.stack((torch.full_like(along, float(c)), along), dim=-1) for c in across]
    return one + [line.flip(-1) for line in one]


def descend(
    constraint: Constraint, start: Tensor, loss: Callable[[Tensor], Tensor], steps: int, lr: float
) -> Tensor:
    """The values that gradient descent on x passes through."""
    w = Parametrized(start, constraint)
    optimizer = torch.optim.SGD(w.parameters(), lr=lr)
    path = []
    for _ in range(steps):
        path.append(w.y.detach().clone())
        optimizer.zero_grad()
        loss(w.y).backward()
        optimizer.step()
    return torch.stack(path)


def in_triangle(y: Tensor) -> tuple[Tensor, Tensor]:
    """Three shares as a point of an equilateral triangle."""
    return y[..., 1] + 0.5 * y[..., 2], 0.75**0.5 * y[..., 2]


def simplex(axes: Axes, closed: bool) -> None:
    constraint = Simplex(closed=closed)
    for line in grid():
        x = torch.cat((line, torch.ones_like(line[:, :1])), dim=-1)
        axes.plot(*in_triangle(constraint(x)), color=BLUE, lw=0.6)
    corners = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]]
    axes.plot(*in_triangle(corners), color="black", lw=1.2)
    target = torch.tensor([0.0, 0.3, 0.7], dtype=torch.float64)
    start = torch.tensor([0.8, 0.15, 0.05], dtype=torch.float64)
    path = descend(constraint, start, lambda y: (y - target).square().sum(), 400, 0.1)
    axes.plot(*in_triangle(path), color=RED, lw=2)
    axes.plot(*in_triangle(target), "o", color=RED)
    gap = float((path[-1] - target).abs().max())
    axes.set_title(f"Simplex(closed={closed})\n{gap:.0e} from a point of the edge after 400 steps")
    axes.set_aspect("equal")
    axes.axis("off")


def box(axes: Axes, closed: bool) -> None:
    constraint = Interval(-1.0, 1.0, closed=closed)
    for line in grid():
        axes.plot(*constraint(line).unbind(-1), color=BLUE, lw=0.6)
    target = torch.tensor([1.0, 0.2], dtype=torch.float64)
    start = torch.tensor([-0.7, -0.7], dtype=torch.float64)
    path = descend(constraint, start, lambda y: (y - target).square().sum(), 400, 0.1)
    axes.plot(*path.unbind(-1), color=RED, lw=2)
    axes.plot(*target, "o", color=RED, clip_on=False)
    gap = float((path[-1] - target).abs().max())
    name = f"Interval(-1, 1, closed={closed})"
    axes.set_title(f"{name}\n{gap:.0e} from a point of the edge after 400 steps")
    axes.set_aspect("equal")


def sphere(axes: Axes) -> None:
    constraint = Sphere()
    for line in grid():
        x = torch.cat((line, torch.ones_like(line[:, :1])), dim=-1)
        axes.plot(*constraint(x).unbind(-1), color=BLUE, lw=0.5)
    target = constraint.project(torch.tensor([-0.5, -0.8, 0.4], dtype=torch.float64))
    start = constraint.project(torch.tensor([0.6, 0.75, 0.3], dtype=torch.float64))
    path = descend(constraint, start, lambda y: -(y * target).sum(), 200, 0.1)
    axes.plot(*path.unbind(-1), color=RED, lw=2.5)
    axes.plot(*target[:, None], "o", color=RED)
    axes.set_title("Sphere(): x / |x|, the image of a plane")
    axes.set_box_aspect((1, 1, 0.5))
    axes.view_init(35, -20)


def cone(axes: Axes) -> None:
    """Positive definite [[a, b], [b, c]] are the inside of a cone around a = c, b = 0."""
    angle = np.linspace(0, 2 * np.pi, 60)
    height = np.linspace(0, 2, 12)
    h, a = np.meshgrid(height, angle)
    axes.plot_wireframe(h * np.cos(a), h * np.sin(a), h, color=GREY, lw=0.3)

    def place(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b, c = y[..., 0, 0], y[..., 0, 1], y[..., 1, 1]
        return 0.5 * (a - c), b, 0.5 * (a + c)

    target = torch.tensor([[1.5, 1.0], [1.0, 0.8]], dtype=torch.float64)
    for angle_ in np.linspace(0, 2.6, 5):
        turn = torch.tensor([[np.cos(angle_), np.sin(angle_)]], dtype=torch.float64)
        start = 0.1 * torch.eye(2, dtype=torch.float64) + 1.4 * turn.T @ turn
        path = descend(PositiveDefinite(), start, lambda y: (y - target).square().sum(), 300, 0.02)
        axes.plot(*place(path), color=BLUE, lw=1.5)
        axes.plot(*(v[:1] for v in place(path)), ".", color=BLUE)
    axes.plot(*(v[None] for v in place(target)), "o", color=RED)
    axes.set_title("PositiveDefinite(): descent in the cone of 2 x 2 matrices", fontsize=10)
    axes.view_init(20, -60)
    axes.set_xlabel("(a - c)/2")
    axes.set_ylabel("b")
    axes.set_zlabel("(a + c)/2")


def rotations(axes: Axes) -> None:
    """Where straight lines of x carry a vector: circles for exp, Cayley stops half a turn away."""
    pole = torch.tensor([1.0, 0.0, 0.3], dtype=torch.float64)
    time = torch.linspace(0, 6.2, 120, dtype=torch.float64)
    for angle in (0.3, 1.2, 2.1):
        x = torch.zeros(3, 3, dtype=torch.float64)
        x[1, 0], x[2, 0], x[2, 1] = 1.0, angle - 1.2, 0.3
        x = x / x.norm()
        for name, color in (("exp", BLUE), ("cayley", RED)):
            y = SpecialOrthogonal(name)(time[:, None, None] * x)  # type: ignore[arg-type]
            label = name if angle == 0.3 else None
            width = 1 if name == "exp" else 3
            axes.plot(*(y @ pole).unbind(-1), color=color, lw=width, label=label)
    axes.plot(*pole[:, None], "o", color="black")
    axes.set_title("SpecialOrthogonal: how f(t x) moves a vector, t = 0 ... 6.2", fontsize=10)
    axes.legend(loc="lower left")
    axes.set_box_aspect((1, 1, 1))


FIGURES: dict[str, tuple[tuple[Callable[[Axes], None], ...], str | None]] = {
    "simplex": ((lambda a: simplex(a, False), lambda a: simplex(a, True)), None),
    "box": ((lambda a: box(a, False), lambda a: box(a, True)), None),
    "sphere": ((sphere,), "3d"),
    "positive_definite": ((cone,), "3d"),
    "rotations": ((rotations,), "3d"),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (panels, projection) in FIGURES.items():
        figure = plt.figure(figsize=(5 * len(panels), 5), dpi=90)
        for i, draw in enumerate(panels, start=1):
            draw(figure.add_subplot(1, len(panels), i, projection=projection))
        figure.tight_layout()
        path = FOLDER / f"{name}.png"
        figure.savefig(path, metadata={"Software": None})
        plt.close(figure)
        print(path)


if __name__ == "__main__":
    main()
