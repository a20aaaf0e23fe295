"""Two gloo ranks on loopback give what one process gives that evaluates f at every read."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from . import ranks
from .oracle import equal

# A rank takes 10 seconds, most of it to import torch; on a loaded machine a multiple of that.
pytestmark = [pytest.mark.distributed, pytest.mark.timeout(200)]
WORLD, LIMIT = 2, 150
CLOSE = {"rtol": 1e-10, "atol": 1e-11}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each rank wrote, by scenario: one start of the processes for all tests."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = dict(os.environ, GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1")
    command = [sys.executable, str(Path(ranks.__file__))]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(WORLD), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    end = time.monotonic() + LIMIT  # for both: a rank that waits for a dead one is ended, too
    try:
        outputs = [p.communicate(timeout=max(1.0, end - time.monotonic()))[0] for p in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def of(results, name):
    for result in results:
        assert not isinstance(result[name], str), result[name]
    return [result[name] for result in results]


class Naive(nn.Module):
    """The same model, f evaluated at every read."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(ranks.N, ranks.N), nn.Linear(ranks.N, ranks.N)

    def forward(self, inputs):
        weight = ranks.skew_exp(self.first.weight)
        h = torch.tanh(nn.functional.linear(inputs, weight, self.first.bias))
        return nn.functional.linear(h, ranks.f_last(self.last.weight), self.last.bias)


def naive_history(micro):
    model = Naive()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(ranks.STEPS):
        for batch in ranks.batches(step)[:micro]:
            # equal chunks: the mean over ranks of the means is the mean
            model(batch).sin().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        yield {
            "0._weight_unconstrained": model.first.weight.detach().clone(),
            "0.bias": model.first.bias.detach().clone(),
            "2._weight_unconstrained": model.last.weight.detach().clone(),
            "2.bias": model.last.bias.detach().clone(),
        }


# name: (micro-batches, how often f may run per step: with FSDP2 once per all-gather)
TRAINING = {
    "ddp": (1, 1),
    "ddp_bucket_view": (1, 1),
    "zero_optimizer": (1, 1),
    "ddp_accumulate": (ranks.MICRO, 1),
    "ddp_deferred": (ranks.MICRO, 1),
    "ddp_deferred_through_the_wrapper": (ranks.MICRO, 1),
    "fsdp": (1, 1),
    "fsdp_without_reshard": (1, 1),
    "fsdp_accumulate_deferred": (ranks.MICRO, ranks.MICRO),
}


@pytest.mark.parametrize("name", TRAINING)
def test_training_equals_one_process(results, name):
    micro, _ = TRAINING[name]
    for history in of(results, name):
        for (got, _), want in zip(history, naive_history(micro), strict=True):
            assert set(got) == set(want)
            for key in want:
                equal(got[key], want[key], **CLOSE)


@pytest.mark.parametrize("name", TRAINING)
def test_evaluations_per_step(results, name):
    _, evaluations = TRAINING[name]
    for history in of(results, name):
        for _, ran in history[1:]:
            assert all(1 <= n <= evaluations for n in ran), ran


def test_ddp_broadcasts_at_construction(results):
    (first, want), (second, _) = of(results, "ddp_broadcasts_at_construction")
    equal(first, second)
    equal(first, want)


@pytest.mark.parametrize(
    "name", ["collectives_are_told", "verified_sees_collectives", "local_averaging"]
)
def test_in_place_collectives(results, name):
    for pairs in of(results, name):
        for got, want in pairs:
            equal(got, want)


def test_fsdp_sharded_load(results):
    for got, want in of(results, "fsdp_load"):
        equal(got, want)


def test_fsdp_read_outside_forward_names_the_remedy(results):
    for _, of_the_library, message in of(results, "fsdp_read_outside_forward"):
        assert of_the_library and "unshard" in message, message


def test_fsdp_refuses_what_comes_after(results):
    for messages, steps in of(results, "fsdp_refuses_what_comes_after"):
        assert steps == ranks.STEPS
        for message in messages:
            assert "before wrapping" in message, message


def test_fsdp_retains_nothing_unsharded(results):
    for freed in of(results, "fsdp_retains_nothing_unsharded"):
        assert freed and all(freed)


@pytest.mark.parametrize("row", ranks.COLLECTIVES)
def test_collectives_are_silent(results, row):
    """No counter moves and no hook fires: told or verified, value and gradient are right."""
    for rank, found in enumerate(of(results, "collectives")):
        changed, evaluations, told, verified = found[row]
        assert changed or rank == 0
        assert evaluations == 0
        for got, want in (*told, *verified):
            equal(got, want)


@pytest.mark.parametrize("row", ranks.DTENSORS)
def test_writes_to_a_sharded_parameter(results, row):
    """x is set anew by each all-gather: untold, told or verified, the next forward is right."""
    for found in of(results, "dtensors"):
        assert len(found[row]) == 3
        for changed, pairs in found[row]:
            assert changed
            for got, want in pairs:
                equal(got, want, **CLOSE)


def test_fsdp1_with_original_parameters(results):
    """The older FSDP trains as one process too, one evaluation of f per step."""
    *_, want = naive_history(1)
    for got, ran in of(results, "fsdp1"):
        assert ran == [[1, 1]] * ranks.STEPS
        for key in want:
            equal(got[key], want[key], **CLOSE)


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp, by layer", "fsdp"])
def test_a_batch_trains_as_in_one_process(results, wrapper):
    for found in of(results, "batched"):
        for step, (got, want) in enumerate(zip(found[wrapper], found["one process"], strict=True)):
            assert got[1] == want[1] == [step + 1] * 4
            for key in want[0]:
                equal(got[0][key], want[0][key], **CLOSE)
