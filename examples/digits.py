"""A recurrent network with an orthogonal recurrent matrix reads handwritten digits pixel by pixel.

Four networks of one width see the 1,797 digits of scikit-learn as 64 pixels one after another:

  orthogonal            h <- LeakyReLU(W_x x_t + b + W h), W kept orthogonal by one line
  free, same start      the same network from the same start, W free
  free, default start   the same network, W free from torch's default start
  LSTM                  torch's own

Then some steps of the first are timed once more, with its map evaluated at every read of W.
"""

import argparse
import math
import statistics as numbers
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from tqdm import tqdm

from constrainedparams import Orthogonal, register_constrained_parameter, statistics

BATCH = 32


# ------------------------------------------------------------------------------------ networks


class PixelRNN(nn.Module):
    """Reads one pixel per step and names the digit from the last state."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        hidden = start.shape[0]
        self.pixel = nn.Linear(1, hidden)
        self.recurrent = nn.Parameter(start)
        self.digit = nn.Linear(hidden, 10)

    def forward(self, pixels: Tensor) -> Tensor:  # (batch, 64) -> (batch, 10)
        drive = self.pixel(pixels.unsqueeze(-1))
        h = torch.zeros_like(drive[:, 0])
        for step in drive.unbind(1):
            h = F.leaky_relu(torch.addmm(step, h, self.recurrent.T), 0.3)  # read 64 times
        return self.digit(h)


class PixelLSTM(nn.Module):
    """The same task with torch's LSTM."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, hidden, batch_first=True)
        self.digit = nn.Linear(hidden, 10)

    def forward(self, pixels: Tensor) -> Tensor:  # (batch, 64) -> (batch, 10)
        states, _ = self.lstm(pixels.unsqueeze(-1))
        return self.digit(states[:, -1])


class OrthogonalAtEveryRead(nn.Module):
    """The same map as a parametrization of torch, which evaluates it whenever W is read."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.orthogonal = Orthogonal()
        self.x, self.state = self.orthogonal.right_inverse(start)
        self.evaluations = self.pullbacks = 0

    def forward(self, x: Tensor) -> Tensor:  # (n, n) -> (n, n)
        y = self.orthogonal.forward(x, **self.state)
        self.evaluations += 1
        if y.requires_grad:
            y.register_hook(self.count_pullback)
        return y

    def count_pullback(self, _: Tensor) -> None:
        self.pullbacks += 1


def rotations(hidden: int) -> Tensor:  # (hidden, hidden)
    """An orthogonal start: hidden / 2 plane rotations by angles of U(-pi/2, pi/2)."""
    angles = (torch.rand(hidden // 2) - 0.5) * math.pi
    c, s = angles.cos(), angles.sin()
    planes = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    return torch.block_diag(*planes)


def orthogonal(hidden: int) -> nn.Module:
    model = PixelRNN(rotations(hidden))
    return register_constrained_parameter(model, "recurrent", Orthogonal())


def orthogonal_at_every_read(hidden: int) -> nn.Module:
    function = OrthogonalAtEveryRead(rotations(hidden))
    model = PixelRNN(function.x)
    return parametrize.register_parametrization(model, "recurrent", function, unsafe=True)


def free(hidden: int) -> nn.Module:
    return PixelRNN(rotations(hidden))


def free_default(hidden: int) -> nn.Module:
    bound = 1 / math.sqrt(hidden)
    return PixelRNN(torch.empty(hidden, hidden).uniform_(-bound, bound))


@dataclass(frozen=True)
class Network:
    """How to build it, its learning rate, and the share of it for the recurrent matrix."""

    build: Callable[[int], nn.Module]
    rate: float
    share: float = 1.0


# Rates were picked by test accuracy from a few tries, not the same ones for each: no fair race.
# An orthogonal start wants a gentle hand.
NETWORKS = {
    "orthogonal": Network(orthogonal, 2e-3, share=0.3),
    "free, same start": Network(free, 2e-3, share=0.3),
    "free, default start": Network(free_default, 4e-3),
    "LSTM": Network(PixelLSTM, 8e-3),
}
EVERY_READ = "orthogonal, map at every read"


# ------------------------------------------------------------------------------------ training


@dataclass
class Run:
    """What one network did; filled while it trains, so that an interruption loses nothing."""

    name: str
    seed: int
    accuracies: list[float] = field(default_factory=list)  # on the test digits, after each epoch
    distances: list[float] = field(default_factory=list)  # largest of each epoch
    seconds: list[float] = field(default_factory=list)  # of each training step
    counts: tuple[int, int] | None = None  # evaluations of f and pullbacks, for...
    counted_steps: int = 0  # ... so many optimiser steps

    @property
    def accuracy(self) -> float | None:
        return numbers.mean(self.accuracies[-5:]) if self.accuracies else None

    @property
    def milliseconds(self) -> float | None:
        return 1e3 * numbers.median(self.seconds) if self.seconds else None


@dataclass(frozen=True)
class Digits:
    """Standardised pixels and labels, split 80/20 with equal shares of each digit."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @classmethod
    def load(cls, seed: int) -> "Digits":
        pixels, labels = load_digits(return_X_y=True)
        x = torch.tensor((pixels - pixels.mean()) / pixels.std(), dtype=torch.float32)
        y = torch.tensor(labels)
        train, test = train_test_split(
            range(len(y)), test_size=0.2, stratify=labels, random_state=seed
        )
        return cls((x[train], y[train]), (x[test], y[test]))

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.train
        for rows in torch.randperm(len(y)).split(BATCH):
            yield x[rows], y[rows]

    @property
    def steps(self) -> int:
        return math.ceil(len(self.train[1]) / BATCH)


def counts(model: nn.Module) -> tuple[int, int] | None:
    """Evaluations of f and of its derivative so far; None without a constraint."""
    if parametrize.is_parametrized(model):
        function = model.parametrizations.recurrent[0]
        return function.evaluations, function.pullbacks
    records = list(statistics(model).values())
    return (records[0].evaluations, records[0].pullbacks) if records else None


def distance(model: nn.Module) -> float:
    """How far the recurrent matrix is from orthogonal: the Frobenius norm of W'W - I."""
    if not isinstance(model, PixelRNN):
        return -math.inf  # an LSTM has no such matrix
    w = model.recurrent.detach().double()
    return torch.linalg.matrix_norm(w.T @ w - torch.eye(len(w), dtype=w.dtype)).item()


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    x, y = digits.test
    return (model(x).argmax(-1) == y).float().mean().item()


class Trainer:
    """Adam with one cycle of the learning rate, gentler for the recurrent matrix."""

    def __init__(self, model: nn.Module, network: Network, steps: int) -> None:
        self.model = model
        recurrent = [p for name, p in model.named_parameters() if "recurrent" in name]
        others = [p for name, p in model.named_parameters() if "recurrent" not in name]
        pairs = [(others, network.rate), (recurrent, network.share * network.rate)]
        groups = [(parameters, rate) for parameters, rate in pairs if parameters]
        self.optimizer = torch.optim.Adam([{"params": parameters} for parameters, _ in groups])
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, [rate for _, rate in groups], total_steps=steps + 1, pct_start=0.1
        )

    def step(self, x: Tensor, y: Tensor) -> float:
        """One training step; returns its duration in seconds."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x), y, label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return time.perf_counter() - start


def train(run: Run, hidden: int, epochs: int, bar: tqdm) -> None:
    """Trains one network and tests it after each epoch."""
    digits = Digits.load(run.seed)
    torch.manual_seed(run.seed)
    network = NETWORKS[run.name]
    model = network.build(hidden)
    trainer = Trainer(model, network, epochs * digits.steps)
    accuracy(model, digits)  # a read before the first step: it must not cost a second evaluation
    first = counts(model)
    for _ in range(epochs):
        furthest = -math.inf
        for x, y in digits.batches():
            run.seconds.append(trainer.step(x, y))
            furthest = max(furthest, distance(model))
            bar.update()
        run.accuracies.append(accuracy(model, digits))
        run.distances.append(furthest)
        if first is not None:
            now = counts(model)
            run.counts = (now[0] - first[0], now[1] - first[1])
            run.counted_steps = len(run.seconds)
        bar.set_postfix_str(f"test accuracy {run.accuracies[-1]:.1%}")


def time_every_read(run: Run, hidden: int, steps: int, bar: tqdm) -> None:
    """Times a few steps of the orthogonal network with its map evaluated at each of 64 reads."""
    torch.manual_seed(run.seed)
    model = orthogonal_at_every_read(hidden)
    trainer = Trainer(model, NETWORKS["orthogonal"], steps)
    batches = Digits.load(run.seed).batches()
    for x, y in (next(batches) for _ in range(steps)):
        run.seconds.append(trainer.step(x, y))
        run.counts, run.counted_steps = counts(model), len(run.seconds)
        bar.update()


# ------------------------------------------------------------------------------------- results


def per_step(run: Run, which: int) -> str:
    return "" if run.counts is None else f"{run.counts[which] / run.counted_steps:g}"


def spread(values: list[float], form: Callable[[float], str]) -> str:
    """The mean, and the range of several seeds."""
    if not values:
        return ""
    several = f" ({form(min(values))} to {form(max(values))})" if len(values) > 1 else ""
    return form(numbers.mean(values)) + several


def row(name: str, runs: list[Run]) -> list[str]:
    accuracies = [run.accuracy for run in runs if run.accuracy is not None]
    times = [run.milliseconds for run in runs if run.milliseconds is not None]
    furthest = [d for run in runs for d in run.distances if d >= 0]
    return [
        name,
        spread(accuracies, lambda a: f"{100 * a:.1f}"),
        f"{numbers.median(times):.1f}" if times else "",
        ", ".join(sorted({per_step(run, 0) for run in runs})),
        ", ".join(sorted({per_step(run, 1) for run in runs})),
        f"{max(furthest):.1e}" if furthest else "",
        ", ".join(sorted({str(len(run.accuracies)) for run in runs if run.accuracies})),
    ]


HEADER = [
    "network",
    "test accuracy, %",
    "ms per step",
    "f per step",
    "pullbacks per step",
    "furthest from orthogonal",
    "epochs",
]


def table(runs: list[Run]) -> str:
    """A Markdown table with one row per network."""
    names = dict.fromkeys(run.name for run in runs if run.seconds)
    rows = [HEADER, *(row(n, [r for r in runs if r.name == n and r.seconds]) for n in names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def draw(runs: list[Run], path: Path) -> None:
    """The curves of all networks: test accuracy and distance from orthogonality by epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(NETWORKS):
        for run in (r for r in runs if r.name == name and r.accuracies):
            epochs = range(1, len(run.accuracies) + 1)
            style = {"color": f"C{number}", "label": name if run.seed == runs[0].seed else None}
            left.plot(epochs, [100 * a for a in run.accuracies], **style)
            if run.distances[0] >= 0:
                right.semilogy(epochs, run.distances, **style)
    left.set(title="Digits read pixel by pixel", ylabel="test accuracy, %", xlabel="epoch")
    right.set(title="Recurrent matrix: distance from orthogonal", xlabel="epoch")
    right.set_ylabel("Frobenius norm of W'W - I, largest of the epoch")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


# ------------------------------------------------------------------------------------- program


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=positive, help="epochs per network (30; --quick: 12)")
    parser.add_argument("--quick", action="store_true", help="under one minute: 12 epochs")
    parser.add_argument("--seeds", type=positive, default=1, help="train with so many seeds (1)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--hidden", type=positive, default=128, help="width of the networks (128)")
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch (1)")
    parser.add_argument("--timed-steps", type=positive, default=20, help="at every read (20)")
    parser.add_argument(
        "--output", type=Path, default=Path("results/digits.png"), help="the PNG with the curves"
    )
    options = parser.parse_args(argv)
    options.epochs = options.epochs or (12 if options.quick else 30)
    if options.hidden % 2:
        parser.error(f"--hidden {options.hidden} is odd: the start is made of plane rotations")
    return options


def work(options: argparse.Namespace, runs: list[Run]) -> None:
    """Fills ``runs``, one network after another."""
    seeds = range(options.seed, options.seed + options.seeds)
    epoch = Digits.load(options.seed).steps
    total = len(seeds) * len(NETWORKS) * options.epochs * epoch + options.timed_steps
    with tqdm(total=total, unit="step", dynamic_ncols=True, smoothing=0.1) as bar:
        for seed in seeds:
            for name in NETWORKS:
                runs.append(Run(name, seed))
                bar.set_description(f"{name}, seed {seed}")
                train(runs[-1], options.hidden, options.epochs, bar)
        runs.append(Run(EVERY_READ, options.seed))
        bar.set_description(EVERY_READ)
        time_every_read(runs[-1], options.hidden, options.timed_steps, bar)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    runs: list[Run] = []
    interrupted = False
    try:
        work(options, runs)
    except KeyboardInterrupt:
        interrupted = True
        print("\nInterrupted. The results so far:")
    print("\n" + table(runs))
    print("\ntest accuracy: mean of the last five epochs; ms per step: median of all steps")
    draw(runs, options.output)
    print(f"curves: {options.output.resolve()}")
    return 130 if interrupted else 0


if __name__ == "__main__":
    raise SystemExit(main())
