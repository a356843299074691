"""Models small enough to train in a test."""

import pytest
import torch

from training import dit, encoders, models, vae
from training.base import Base

SIDE = 32


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Tensors are so tiny here that a second thread costs more than it gives, ten times so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def transformer_config():
    return models.transformer_config() | {"num_layers": 2, "sample_size": SIDE // 8}


@pytest.fixture(scope="session")
def vae_config():
    return models.vae_config() | {"ch": 8, "layers_per_block": 1}


@pytest.fixture(scope="session")
def make_base(transformer_config, vae_config):
    """Return a new checkpoint of random weights at each call, the same each time."""

    def make():
        torch.manual_seed(0)
        transformer, _ = dit.build(transformer_config)
        # A new transformer passes nothing on through many layers, which would hide what a LoRA does to them.
        weights = {
            name: value + 0.1 * torch.randn_like(value) for name, value in transformer.state_dict().items()
        }
        text, clip = encoders.load(encoders.EncoderPair().state_dict())
        decoder = vae.build(vae_config).eval().requires_grad_(False)
        return Base(transformer_config, weights, decoder, clip, text)

    return make
