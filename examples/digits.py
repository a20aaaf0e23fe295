"""A recurrent network with an orthogonal recurrent matrix reads handwritten digits pixel by pixel.

Four networks of one width see the 1,797 digits of scikit-learn as 64 pixels one after another:

  orthogonal            h <- LeakyReLU(W_x x_t + b + W h), W kept orthogonal by one line
  free, same start      the same network from the same start, W free
  free, default start   the same network, W free from torch's default start
  LSTM                  torch's own

Each learns from four fifths of the digits and names the rest, the test digits, once: after its last
epoch. Then some steps of the first are timed once more, with its map evaluated at every read of W.

--scan tries every setting of one list on every network and scores it on a part of the four fifths
held out for that, the validation digits: the settings of the networks were picked so.
"""

import argparse
import itertools
import json
import math
import statistics as numbers
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass, field
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
SPLIT = 1797  # seeds the split of the digits, the same one for every run


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
class Settings:
    """What the scan tries."""

    rate: float  # the peak of Adam's learning rate
    share: float  # of that rate for the recurrent matrix
    smoothing: float  # of the labels


# The same list for every network.
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
SCAN = [Settings(*tried) for tried in itertools.product(RATES, (0.3, 1.0), (0.0, 0.1))]


@dataclass(frozen=True)
class Network:
    """How to build it from its width, and its settings."""

    build: Callable[[int], nn.Module]
    settings: Settings


# Picked by validation accuracy: make demo ARGS="--scan --seeds 2" prints them.
NETWORKS = {
    "orthogonal": Network(orthogonal, Settings(rate=0.002, share=1.0, smoothing=0.1)),
    "free, same start": Network(free, Settings(rate=0.001, share=1.0, smoothing=0.1)),
    "free, default start": Network(free_default, Settings(rate=0.016, share=0.3, smoothing=0.1)),
    "LSTM": Network(PixelLSTM, Settings(rate=0.008, share=1.0, smoothing=0.0)),
}
EVERY_READ = "orthogonal, map at every read"


# ------------------------------------------------------------------------------------ training


@dataclass
class Run:
    """What one network did; filled while it trains, so that an interruption loses nothing."""

    name: str
    seed: int  # of the start and of the order of the digits
    settings: Settings
    learnt: list[float] = field(default_factory=list)  # accuracy in training, of each epoch
    accuracy: float | None = None  # on the digits held out, once, after the last epoch
    distances: list[float] = field(default_factory=list)  # largest of each epoch
    seconds: list[float] = field(default_factory=list)  # of each training step
    counts: tuple[int, int] | None = None  # evaluations of f and pullbacks, for...
    counted_steps: int = 0  # ... so many optimiser steps

    @property
    def milliseconds(self) -> float | None:
        return 1e3 * numbers.median(self.seconds) if self.seconds else None


def split() -> dict[str, list[int]]:
    """Rows of the digits: 60 % train, 20 % validation, 20 % test, equal shares of each digit."""
    labels = load_digits().target

    def divide(rows: list[int], share: float) -> tuple[list[int], list[int]]:
        return train_test_split(rows, test_size=share, stratify=labels[rows], random_state=SPLIT)

    rest, test = divide(list(range(len(labels))), 0.2)
    train, validation = divide(rest, 0.25)
    return {"train": train, "validation": validation, "test": test}


@dataclass(frozen=True)
class Digits:
    """Pixels and labels: those to learn from and those held out."""

    learn: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]

    @classmethod
    def load(cls, *, scan: bool) -> "Digits":
        """To scan: learn from train, hold out validation. Else: from both, hold out test."""
        rows = split()
        learn = rows["train"] if scan else rows["train"] + rows["validation"]
        held = rows["validation" if scan else "test"]
        pixels, labels = load_digits(return_X_y=True)
        standard = (pixels - pixels[learn].mean()) / pixels[learn].std()
        x, y = torch.tensor(standard, dtype=torch.float32), torch.tensor(labels)
        return cls((x[learn], y[learn]), (x[held], y[held]))

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.learn
        for rows in torch.randperm(len(y)).split(BATCH):
            yield x[rows], y[rows]

    @property
    def steps(self) -> int:
        return math.ceil(len(self.learn[1]) / BATCH)


def counts(model: nn.Module) -> tuple[int, int] | None:
    """Evaluations of f and of its derivative so far; None without a constraint."""
    if parametrize.is_parametrized(model):
        function = model.parametrizations.recurrent[0]
        return function.evaluations, function.pullbacks
    records = list(statistics(model).values())
    return (records[0].evaluations, records[0].pullbacks) if records else None


@torch.no_grad()
def distance(model: nn.Module) -> float:
    """How far the recurrent matrix is from orthogonal: the Frobenius norm of W'W - I."""
    if not isinstance(model, PixelRNN):
        return -math.inf  # an LSTM has no such matrix
    w = model.recurrent.double()
    return torch.linalg.matrix_norm(w.T @ w - torch.eye(len(w), dtype=w.dtype)).item()


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    x, y = digits.held
    return int((model(x).argmax(-1) == y).sum()) / len(y)


class Trainer:
    """Adam with one cycle of the learning rate, and a share of it for the recurrent matrix."""

    def __init__(self, model: nn.Module, settings: Settings, steps: int) -> None:
        self.model = model
        self.smoothing = settings.smoothing
        recurrent, others = [], []
        for name, parameter in model.named_parameters():
            is_recurrent = "recurrent" in name or "weight_hh" in name  # an LSTM's name for it
            (recurrent if is_recurrent else others).append(parameter)
        self.optimizer = torch.optim.Adam([{"params": others}, {"params": recurrent}])
        rates = [settings.rate, settings.share * settings.rate]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rates, total_steps=steps + 1, pct_start=0.1
        )

    def step(self, x: Tensor, y: Tensor) -> tuple[float, int]:
        """One training step; its duration in seconds, and how many digits it named right."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        named = self.model(x)
        F.cross_entropy(named, y, label_smoothing=self.smoothing).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        seconds = time.perf_counter() - start
        return seconds, int((named.argmax(-1) == y).sum())


def train(run: Run, hidden: int, epochs: int, digits: Digits, bar: tqdm) -> None:
    """Trains one network, then asks it for the digits held out."""
    torch.manual_seed(run.seed)
    model = NETWORKS[run.name].build(hidden)
    trainer = Trainer(model, run.settings, epochs * digits.steps)
    distance(model)  # a read before the first step: it must not cost a second evaluation
    first = counts(model)
    for _ in range(epochs):
        furthest, right = -math.inf, 0
        for x, y in digits.batches():
            seconds, named = trainer.step(x, y)
            run.seconds.append(seconds)
            right += named
            furthest = max(furthest, distance(model))
            bar.update()
        run.learnt.append(right / len(digits.learn[1]))
        run.distances.append(furthest)
        if first is not None:
            now = counts(model)
            run.counts = (now[0] - first[0], now[1] - first[1])
            run.counted_steps = len(run.seconds)
        bar.set_postfix_str(f"accuracy in training {run.learnt[-1]:.1%}")
    run.accuracy = accuracy(model, digits)


def time_every_read(run: Run, hidden: int, steps: int, digits: Digits, bar: tqdm) -> None:
    """Times a few steps of the orthogonal network with its map evaluated at each of 64 reads."""
    torch.manual_seed(run.seed)
    model = orthogonal_at_every_read(hidden)
    trainer = Trainer(model, run.settings, steps)
    batches = itertools.chain.from_iterable(digits.batches() for _ in itertools.count())
    for x, y in itertools.islice(batches, steps):
        run.seconds.append(trainer.step(x, y)[0])
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


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def row(name: str, runs: list[Run]) -> list[str]:
    learnt = [run.learnt[-1] for run in runs if run.learnt]
    accuracies = [run.accuracy for run in runs if run.accuracy is not None]
    times = [run.milliseconds for run in runs if run.milliseconds is not None]
    furthest = [d for run in runs for d in run.distances if d >= 0]
    return [
        name,
        spread(learnt, percent),
        spread(accuracies, percent),
        f"{numbers.median(times):.1f}" if times else "",
        ", ".join(sorted({per_step(run, 0) for run in runs})),
        ", ".join(sorted({per_step(run, 1) for run in runs})),
        f"{max(furthest):.1e}" if furthest else "",
        ", ".join(sorted({str(len(run.learnt)) for run in runs if run.learnt})),
    ]


HEADER = [
    "network",
    "accuracy in training, %",
    "test accuracy, %",
    "ms per step",
    "f per step",
    "pullbacks per step",
    "furthest from orthogonal",
    "epochs",
]


def markdown(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def table(runs: list[Run]) -> str:
    """One row per network."""
    names = dict.fromkeys(run.name for run in runs if run.seconds)
    rows = [row(n, [r for r in runs if r.name == n and r.seconds]) for n in names]
    return markdown([HEADER, *rows])


def validation(runs: list[Run], name: str) -> dict[Settings, float]:
    """Mean accuracy over the seeds of one network under each of the settings tried so far."""
    found: dict[Settings, list[float]] = {}
    for run in runs:
        if run.name == name and run.accuracy is not None:
            found.setdefault(run.settings, []).append(run.accuracy)
    return {settings: numbers.mean(values) for settings, values in found.items()}


def scan_table(runs: list[Run]) -> str:
    """Validation accuracies, one row per setting; then the best setting of each network."""
    found = {name: validation(runs, name) for name in NETWORKS}
    rows = [["rate", "share", "smoothing", *NETWORKS]]
    for settings in SCAN:
        cells = [percent(f[settings]) if settings in f else "" for f in found.values()]
        rows.append([*(f"{value:g}" for value in astuple(settings)), *cells])
    best = {name: max(f, key=f.get) for name, f in found.items() if f}  # of equals the first
    picks = [f"{name}: {s}, {percent(found[name][s])} %" for name, s in best.items()]
    return "\n".join([markdown(rows), "", "picked, by validation accuracy:", *picks])


def save(runs: list[Run], options: argparse.Namespace) -> Path:
    """The scan as JSON, with all that it depends on; beside the curves."""
    tries = [
        {"network": r.name, "seed": r.seed, **asdict(r.settings), "accuracy": r.accuracy}
        for r in runs
        if r.accuracy is not None
    ]
    protocol = {"split": SPLIT, "epochs": options.epochs, "hidden": options.hidden}
    path = options.output.with_name("scan.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**protocol, "torch": torch.__version__, "tries": tries}, indent=1))
    return path


def draw(runs: list[Run], path: Path) -> None:
    """The curves of all networks: accuracy in training and distance from orthogonality by epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(NETWORKS):
        for run in (r for r in runs if r.name == name and r.learnt):
            epochs = range(1, len(run.learnt) + 1)
            style = {"color": f"C{number}", "label": name if run.seed == runs[0].seed else None}
            left.plot(epochs, [100 * a for a in run.learnt], **style)
            if run.distances[0] >= 0:
                right.semilogy(epochs, run.distances, **style)
    left.set(title="Digits read pixel by pixel", ylabel="accuracy in training, %", xlabel="epoch")
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
    parser.add_argument(
        "--scan",
        action="store_true",
        help=f"try {len(SCAN)} settings on each: some 10 minutes a seed",
    )
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--hidden", type=positive, default=128, help="width of the networks (128)")
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch (1)")
    parser.add_argument("--timed-steps", type=positive, default=20, help="at every read (20)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results/digits.png"),
        help="the PNG with the curves; the scan's JSON goes beside it",
    )
    options = parser.parse_args(argv)
    options.epochs = options.epochs or (12 if options.quick else 30)
    if options.hidden % 2:
        parser.error(f"--hidden {options.hidden} is odd: the start is made of plane rotations")
    return options


def seeds(options: argparse.Namespace) -> range:
    return range(options.seed, options.seed + options.seeds)


def work(options: argparse.Namespace, runs: list[Run]) -> None:
    """Fills ``runs``, one network after another."""
    digits = Digits.load(scan=False)
    trained = len(seeds(options)) * len(NETWORKS)
    total = trained * options.epochs * digits.steps + options.timed_steps
    with tqdm(total=total, unit="step", dynamic_ncols=True, smoothing=0.1) as bar:
        for seed, (name, network) in itertools.product(seeds(options), NETWORKS.items()):
            runs.append(Run(name, seed, network.settings))
            bar.set_description(f"{name}, seed {seed}")
            train(runs[-1], options.hidden, options.epochs, digits, bar)
        runs.append(Run(EVERY_READ, options.seed, NETWORKS["orthogonal"].settings))
        bar.set_description(EVERY_READ)
        time_every_read(runs[-1], options.hidden, options.timed_steps, digits, bar)


def scan(options: argparse.Namespace, runs: list[Run]) -> None:
    """Fills ``runs``: every setting on every network, the test digits out of reach."""
    digits = Digits.load(scan=True)
    tries = list(itertools.product(seeds(options), SCAN, NETWORKS))
    total = len(tries) * options.epochs * digits.steps
    with tqdm(total=total, unit="step", dynamic_ncols=True, smoothing=0.01) as bar:
        for seed, settings, name in tries:
            runs.append(Run(name, seed, settings))
            bar.set_description(f"{name}, seed {seed}")
            train(runs[-1], options.hidden, options.epochs, digits, bar)


def report(options: argparse.Namespace, runs: list[Run]) -> None:
    if options.scan:
        print("\n" + scan_table(runs))
        print(f"\nall tries: {save(runs, options).resolve()}")
        return
    print("\n" + table(runs))
    print("\ntest accuracy: once, after the last epoch; ms per step: median of all steps")
    draw(runs, options.output)
    print(f"curves: {options.output.resolve()}")


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    runs: list[Run] = []
    interrupted = False
    try:
        (scan if options.scan else work)(options, runs)
    except KeyboardInterrupt:
        interrupted = True
        print("\nInterrupted. The results so far:")
    report(options, runs)
    return 130 if interrupted else 0


if __name__ == "__main__":
    raise SystemExit(main())
