"""What the tests in the host share."""

import pytest
import torch
from graphs import Bench


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Tensors are so tiny here that a second thread costs more than it gives, ten times so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bench(host):
    """The in-process host with test-only nodes."""
    return Bench(host)
