"""Strictness for every test: warnings are errors, seeds are fixed, one thread per operation.

``--device cuda`` puts what tests make, and do not place themselves, onto the GPU.
"""

import importlib
import os
from pathlib import Path

import pytest
import torch

# torch keeps compiled graphs on disk by what Dynamo saw: the name of an operation, not its derivative
os.environ.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE", "0")


def pytest_addoption(parser):
    parser.addoption("--device", help="where tensors and generators of the tests live")


def pytest_configure(config):
    if device := config.getoption("--device"):
        place_everything_on(device)
    config.addinivalue_line("filterwarnings", "error")
    # torch calls its own deprecated functions on the first compilation or forward-mode derivative
    for name in ("script", "script_method", "interface"):
        ignored = f"ignore:.torch.jit.{name}. is deprecated"  # a FutureWarning from torch 2.15 on
        config.addinivalue_line("filterwarnings", ignored)
    # Dynamo makes an instance of every autograd.Function that it traces
    ignored = (
        "ignore:.*should not be instantiated. Methods on autograd functions:DeprecationWarning"
    )
    config.addinivalue_line("filterwarnings", ignored)
    # Dynamo asks every input for its .grad, and hides this from users by other means than a filter
    ignored = "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
    config.addinivalue_line("filterwarnings", ignored)
    # Inductor's advice where a GPU has TF32: the tests compare in full precision
    config.addinivalue_line("filterwarnings", "ignore:TensorFloat32 tensor cores:UserWarning")
    config.addinivalue_line("markers", "distributed: starts processes that talk over loopback")


@pytest.fixture
def allocations(monkeypatch):
    """work -> (net, peak) bytes of tensors allocated while it runs, as the benchmarks measure it."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    allocated = importlib.import_module("benchmarks.memory").allocated

    def measured(work):
        work()
        return allocated(work)

    return measured


# Not run with --device: what each is about, and parts of names.
OF_THE_CPU = {
    "the default device belongs to a thread": ("test_threads.py",),
    "memory that NumPy, ctypes or another process writes to, or that is measured on the CPU": (
        *("numpy", "raw pointer", "raw_pointer", "Hogwild", "share_memory", "verified_stays_verified"),
        *("test_verified_runs_f_once_per_change", "test_memory_sizes.py", "lets_go_of_y_in_the_flat"),
        "the_peak_is_at_most",
    ),
    "names the CPU": (
        *("to('cpu')", "to_empty", "flat_list_follows", "packed_sequences", "[meta]"),
        *("test_registration[device]", "shape_attributes"),
    ),
    "torch has no such kernel there, or not below a default device": (
        *("Adagrad(fused)", "Adagrad_fused", "test_attention.py"),
    ),
    "processes": ("distributed", "spawn"),
}  # fmt: skip


def place_everything_on(device):
    """Tests are written for one device; oracles in NumPy and SciPy get a copy from there."""
    torch.set_default_device(device)
    there = torch.Tensor.numpy
    torch.Tensor.numpy = lambda t, **options: there(t.cpu(), **options)
    torch.Tensor.__array__ = lambda t, dtype=None, copy=None: (
        t.detach().cpu().resolve_conj().numpy()
    )


def pytest_collection_modifyitems(config, items):
    """Workers must collect the same names: an address in one differs between them."""
    if config.getoption("--device"):
        left = [part for parts in OF_THE_CPU.values() for part in parts]
        kept = [item for item in items if not any(part in item.nodeid for part in left)]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"give this test an id without an address: {item.nodeid}")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
