"""What a side hands to the worker: a prepared stage, and the clock of a whole run's parts."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class RunClock:
    """Times the parts of a whole run from outside, by the first and the last call of its transformer.

    Parameters
    ----------
    transformer : torch.nn.Module
        Gets two hooks.
    device : torch.device
        Where it runs.
    steps : int
        Sampling steps of the run.
    """

    def __init__(self, transformer: torch.nn.Module, device: torch.device, steps: int) -> None:
        self._device = device
        self._steps = steps
        self._times: list[float] = []
        transformer.register_forward_pre_hook(self._stamp)
        transformer.register_forward_hook(self._stamp)

    def _stamp(self, *_: Any) -> None:
        synchronize(self._device)
        self._times.append(time.perf_counter())

    def start(self) -> None:
        """Forget the run before."""
        self._times = []

    def parts(self, began: float, ended: float) -> dict[str, float]:
        """Return seconds of conditioning, of one sampling step and of the decode, in a run between these times.

        Of several steps the first is left out, since it warms up.
        """
        starts, ends = self._times[::2], self._times[1::2]
        calls = len(starts) // self._steps
        steps = [ends[i + calls - 1] - starts[i] for i in range(0, len(starts), calls)]
        return {
            "encode": starts[0] - began,
            "step": statistics.median(steps[1:] or steps),
            "decode": ended - ends[-1],
        }


@dataclass
class Stage:
    """A prepared case.

    Attributes
    ----------
    run : callable
        Computes the stage once and returns its result.
    clock : RunClock or None
        Of a whole run.
    """

    run: Callable[[], torch.Tensor]
    clock: RunClock | None = None
