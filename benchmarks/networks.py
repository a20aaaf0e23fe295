"""One training step of a recurrent network, with its matrix constrained in each of the ways."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from constrainedparams import Orthogonal, deferred_pullback, register_constrained_parameter

MAPS = {"exp": "matrix_exp", "cayley": "cayley"}  # of Orthogonal: torch's name for it
RATE = 1e-3


@dataclass(frozen=True)
class Row:
    """A size of the experiment; ``batch`` is the size of each micro-batch."""

    hidden: int
    length: int
    batch: int
    micro_batches: int


class Recurrent(nn.Module):
    """Reads one number per time step and names one of ten classes from the last state."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(1, hidden)
        self.recurrent = nn.Linear(hidden, hidden, bias=False)
        self.classes = nn.Linear(hidden, 10)

    def forward(self, numbers: Tensor) -> Tensor:  # (batch, length) -> (batch, 10)
        drive = self.encoder(numbers.unsqueeze(-1))
        h = torch.zeros_like(drive[:, 0])
        for step in drive.unbind(1):
            h = torch.tanh(step + self.recurrent(h))  # reads recurrent.weight each time
        return self.classes(h)


@dataclass
class Task:
    """What all columns of a row share: data, the start, and the point where the maps stand.

    y = base phi(A), A the skew matrix of x's lower triangle, of spectral norm about 1: the cost of
    an exponential grows with the norm, and 0 would be the cheapest place.
    """

    row: Row
    device: str = "cpu"
    batches: list[tuple[Tensor, Tensor]] = field(init=False)
    base: Tensor = field(init=False)  # (hidden, hidden)
    x: Tensor = field(init=False)  # (hidden, hidden)

    def __post_init__(self) -> None:
        row, n = self.row, self.row.hidden
        draw = torch.Generator().manual_seed(0)
        self.batches = [
            (
                torch.randn(row.batch, row.length, generator=draw).to(self.device),
                torch.randint(10, (row.batch,), generator=draw).to(self.device),
            )
            for _ in range(row.micro_batches)
        ]
        base = Orthogonal().sample((n, n), dtype=torch.float32, generator=draw)
        self.base = base.to(self.device)
        self.x = 0.5 / math.sqrt(n) * torch.randn(n, n, generator=draw).to(self.device)

    def network(self, weight: Tensor) -> Recurrent:
        """The same network each time, with ``weight`` as its recurrent matrix."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            network = Recurrent(self.row.hidden).to(self.device)
            network.recurrent.weight.copy_(weight)
        return network


@dataclass(frozen=True)
class Column:
    """One way to train: an optimiser step, and the matrix where it stands."""

    step: Callable[[], None]
    weight: Callable[[], Tensor]


def backward(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    numbers, labels = batch
    nn.functional.cross_entropy(network(numbers), labels).backward()


def finish(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()


def trained(network: Recurrent, task: Task) -> Column:
    """Train as usual: nothing in the loop knows of a constraint."""
    optimizer = torch.optim.SGD(network.parameters(), RATE)

    def step() -> None:
        for batch in task.batches:
            backward(network, batch)
        finish(optimizer)

    return Column(step, lambda: network.recurrent.weight)


def unconstrained(task: Task, kind: str) -> Column:
    return trained(task.network(Orthogonal(kind)(task.x, base=task.base)), task)


def torch_network(task: Task, kind: str) -> Recurrent:
    network = task.network(task.base)
    parametrizations.orthogonal(network.recurrent, orthogonal_map=MAPS[kind])
    with torch.no_grad():
        network.recurrent.parametrizations.weight.original.copy_(task.x)
    return network


def no_cache(task: Task, kind: str) -> Column:
    """torch's parametrization as it comes."""
    return trained(torch_network(task, kind), task)


def cached(task: Task, kind: str) -> Column:
    """torch's cache: a block for each micro-batch, since a second backward in one raises."""
    network = torch_network(task, kind)
    optimizer = torch.optim.SGD(network.parameters(), RATE)

    def step() -> None:
        for batch in task.batches:
            with parametrize.cached():
                backward(network, batch)
        finish(optimizer)

    return Column(step, lambda: network.recurrent.weight)


def own_network(task: Task, kind: str) -> Recurrent:
    network = task.network(task.base)
    register_constrained_parameter(network.recurrent, "weight", Orthogonal(kind))
    with torch.no_grad():
        network.recurrent._weight_unconstrained.copy_(task.x)
    return network


def ours(task: Task, kind: str) -> Column:
    return trained(own_network(task, kind), task)


def deferred(task: Task, kind: str) -> Column:
    """Ours with one derivative of the map for all micro-batches."""
    network = own_network(task, kind)
    optimizer = torch.optim.SGD(network.parameters(), RATE)

    def step() -> None:
        *first, last = task.batches
        with deferred_pullback(network):
            for batch in first:
                backward(network, batch)
        backward(network, last)
        finish(optimizer)

    return Column(step, lambda: network.recurrent.weight)


def by_hand(task: Task, kind: str) -> Column:
    """The limit: our map and its derivative once per optimiser step, written out."""
    function, network = Orthogonal(kind), task.network(task.base)
    weight = network.recurrent.weight
    x = nn.Parameter(task.x.clone())
    rest = [p for p in network.parameters() if p is not weight]
    optimizer = torch.optim.SGD([*rest, x], RATE)

    def step() -> None:
        y = function(x, base=task.base)
        weight.data = y.detach()
        for batch in task.batches:
            backward(network, batch)
        (x.grad,) = torch.autograd.grad(y, x, weight.grad)
        weight.grad = None
        finish(optimizer)

    return Column(step, lambda: function(x, base=task.base))


COLUMNS = {
    "no cache": no_cache,
    "torch cached()": cached,
    "ours": ours,
    "ours, deferred": deferred,
    "by hand": by_hand,
}


def check_agreement(row: Row, steps: int = 3, tolerance: float = 1e-3) -> None:
    """All columns train alike: the matrix goes the same way, to rounding."""
    task = Task(row)
    for name in MAPS:
        moves = {}
        for key, build in COLUMNS.items():
            column = build(task, name)
            start = column.weight().detach().double().clone()
            for _ in range(steps):
                column.step()
            moves[key] = column.weight().detach().double() - start
        limit = moves["by hand"]
        for key, move in moves.items():
            gap = float((move - limit).norm() / limit.norm())
            if not gap <= tolerance:
                raise AssertionError(
                    f"{key} ({name}) moves the matrix otherwise than by hand: relative distance "
                    f"{gap:.1e}, expected at most {tolerance}. Its time would mean nothing."
                )
