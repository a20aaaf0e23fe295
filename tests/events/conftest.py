"""The events run in float64 unless one says otherwise."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _float64():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)
