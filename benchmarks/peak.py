"""The fastest matrix product that this machine was seen to do, which shares of its peak are taken of."""

import time
from collections.abc import Sequence

import torch

from .stages import synchronize

SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}
_REPEATS = 5
_DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}


def measured_peak(device: torch.device, sides: Sequence[int] | None = None) -> float:
    """Return floating-point operations per second of the best of several square matrix products.

    Parameters
    ----------
    device : torch.device
        Float32 is measured on a CPU, with the threads of this process, and bfloat16 on a GPU.
    sides : sequence of int, optional
        Sides of the matrices.
    """
    best = 0.0
    for side in sides or SIDES[device.type]:
        left, right = (torch.randn(side, side, device=device).to(_DTYPES[device.type]) for _ in range(2))
        out = torch.empty_like(left)
        torch.mm(left, right, out=out)
        for _ in range(_REPEATS):
            synchronize(device)
            began = time.perf_counter()
            torch.mm(left, right, out=out)
            synchronize(device)
            best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best
