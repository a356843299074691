"""Paths, threads and the two kinds of real ComfyUI that tests run in."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# For `pytest` started by hand; `python -m pytest` in the project's folder has it already.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

# Of several workers (pytest-xdist) each keeps to a core of its own.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(4, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """Folder of a tiny random checkpoint in the official layout; copy it before changing anything in it."""
    from devtools import tiny_checkpoint

    return tiny_checkpoint.write(tmp_path_factory.mktemp("checkpoint") / tiny_checkpoint.NAME)


def _base_directory(folder, checkpoint, link_pack):
    from devtools import base_directory

    return base_directory.prepare(folder, link_pack, checkpoint)


@pytest.fixture(scope="session")
def host(tmp_path_factory, tiny_checkpoint):
    """The host in this process with the pack loaded: ``host.run(prompt)``, ``host.node(id)``, ``host.base``."""
    from devtools.inprocess_host import InProcessHost

    return InProcessHost(_base_directory(tmp_path_factory.mktemp("host"), tiny_checkpoint, False))


@pytest.fixture(scope="session")
def server(tmp_path_factory, tiny_checkpoint):
    """A host server process with the pack loaded: ``server.run(prompt)``, ``server.submit(prompt)``, ``server.url``."""
    from devtools.host_server import HostServer

    base = _base_directory(tmp_path_factory.mktemp("server"), tiny_checkpoint, True)
    with HostServer(base, log=base / "server.log") as running:
        yield running
