"""What the robustness tests share: the host with test nodes, hypothesis, and the figures of docs/reliability.md."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "host"))

from forms import LONG
from graphs import Bench

# Equal cases in every short run, so that a failure there is due to the change; new ones in every long run.
settings.register_profile(
    "robustness",
    deadline=None,
    derandomize=not LONG,
    database=None,
    print_blob=LONG,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("robustness")


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Tensors are so tiny here that a second thread costs more than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bench(host):
    """The in-process host with test-only nodes."""
    return Bench(host)


@pytest.fixture
def figure(request):
    """Function that keeps a measured figure for the table of ``python dev.py soak``: ``figure(name, value)``."""

    def keep(name, value):
        path = os.environ.get("EASYANIMATE_FIGURES")
        if path:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"test": request.node.nodeid, "name": name, "value": value}) + "\n")

    return keep
