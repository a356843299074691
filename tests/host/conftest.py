"""What the tests in the host share."""

import pytest
import torch
from graphs import Bench
from safetensors.torch import load_file, save_file

from devtools import tiny_lora


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


@pytest.fixture(scope="session")
def lora(host):
    """The tensors of the tiny LoRA in the release's format."""
    return load_file(host.base / "models" / "loras" / tiny_lora.NAME)


@pytest.fixture(scope="session")
def write_lora(host):
    """Function that writes tensors as a LoRA file and returns its name: ``write_lora(name, tensors)``."""

    def write(name, tensors):
        save_file(tensors, host.base / "models" / "loras" / name)
        return name

    return write
