"""How much memory one run takes at its peak."""

from pathlib import Path
from typing import NamedTuple

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# What Linux takes as the order to start the highest resident size anew.
_RESET_PEAK = "5"

# Memory that is freed goes back to the system at once, so that the highest resident size is what was live. Only for
# runs that are not timed: mapping memory anew for each tensor costs time.
TRIMMED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class Memory(NamedTuple):
    """Bytes at the peak of a run; None where they cannot be told.

    Attributes
    ----------
    growth : int or None
        Over what was there at rest before the run: weights, inputs and the libraries.
    total : int or None
        All of the process's resident memory, or all that it allocated on the GPU.
    """

    growth: int | None = None
    total: int | None = None


class MemoryMeter:
    """Reads the peak between its start and its stop: of the process on a CPU (Linux only), of the allocator on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._rest = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._rest = torch.cuda.memory_allocated(device)
        elif _CLEAR.exists():
            _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
            self._rest = _resident("VmRSS")

    def stop(self) -> Memory:
        """Return the peak since the start."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        elif _CLEAR.exists():
            peak = _resident("VmHWM")
        else:
            return Memory()
        return Memory(max(peak - self._rest, 0), peak)


def _resident(field: str) -> int:
    """Return a field of ``/proc/self/status`` in bytes."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
