"""Several processes that train one model together, each on its own part of every batch.

The layers of a small model are too small for the threads of one process: on two cores two processes of one thread each get
through half as many clips again.
"""

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def rank() -> int:
    """Return the number of this process, 0 for the first or only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def count() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def average(values: torch.Tensor) -> None:
    """Replace values by their mean over all processes, in place."""
    if count() > 1:
        dist.all_reduce(values)
        values /= count()


def run(function: Callable[[Any], None], argument: Any, processes: int) -> None:
    """Call ``function(argument)`` in this process, or in each of several that train together.

    Parameters
    ----------
    function : callable
        Of a module, so that other processes can import it.
    argument : object
        Handed to each.
    processes : int
        How many; the CPU's cores are shared out among them.

    Raises
    ------
    torch.multiprocessing.ProcessRaisedException
        If one of several failed; the last line of its text is that one's error.
    """
    if processes == 1:
        function(argument)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        mp.spawn(_worker, (processes, meeting, function, argument), nprocs=processes)


def _worker(index: int, processes: int, meeting: str, function: Callable[[Any], None], argument: Any) -> None:
    # Should the parent be killed, its workers end too.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(torch.get_num_threads() // processes, 1))
    dist.init_process_group("gloo", init_method=meeting, rank=index, world_size=processes)
    try:
        function(argument)
        # A worker that leaves while another is still sending can take it down.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _end_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
