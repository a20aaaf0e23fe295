"""Strictness for every test: warnings are errors, seeds are fixed, one thread per operation.

``--device cuda`` puts what tests make, and do not place themselves, onto the GPU.
"""

import pytest
import torch


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


def place_everything_on(device):
    """Tests are written for one device; oracles in NumPy and SciPy get a copy from there."""
    torch.set_default_device(device)
    there = torch.Tensor.numpy
    torch.Tensor.numpy = lambda t, **options: there(t.cpu(), **options)
    torch.Tensor.__array__ = lambda t, dtype=None, copy=None: (
        t.detach().cpu().resolve_conj().numpy()
    )


def pytest_collection_modifyitems(items):
    """Workers must collect the same names: an address in one differs between them."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"give this test an id without an address: {item.nodeid}")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
