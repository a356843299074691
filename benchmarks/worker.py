"""One side of the benchmark as a process: ``python -m benchmarks.worker SIDE``, asked and answering in JSON lines.

A line asks ``{"do": "run", ...}``; the answer is a line of its own, ``{"error": reason}`` where the work failed.
"""

import argparse
import gc
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from devtools import golden

from .cases import Case
from .memory import Memory, MemoryMeter
from .stages import Stage, synchronize


class Worker:
    """What a side does when it is asked; each public method is a request.

    Parameters
    ----------
    side : module
        ``ours`` or ``release``: gives ``prepare(case, device)`` and ``gradient_mode``.
    device : torch.device
        Where it computes.
    """

    def __init__(self, side: Any, device: torch.device) -> None:
        self._side = side
        self._device = device
        self._stage: Stage | None = None

    def describe(self) -> dict[str, Any]:
        """Return the versions and the device's name."""
        return {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "device": _device_name(self._device),
        }

    def peak(self) -> dict[str, Any]:
        """Return the operations per second of the device's best matrix product."""
        from .peak import measured_peak

        with torch.inference_mode():
            return {"flops_per_second": measured_peak(self._device)}

    def flops(self, case: dict[str, Any]) -> dict[str, Any]:
        """Return the operations of one run of the case."""
        from .flops import counted_flops

        return {"flops": counted_flops(Case(**case))}

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """Make the models and inputs of a case, in place of those of the case before."""
        self.unload()
        with torch.no_grad():
            self._stage = self._side.prepare(Case(**case), self._device)
        return {}

    def run(self, save: str | None = None, memory: bool = False) -> dict[str, Any]:
        """Run the prepared case once and return seconds, parts of a whole run, and the memory if that is asked for.

        Parameters
        ----------
        save : str, optional
            File for the result.
        memory : bool
            Whether to read the peak; costs no time on a GPU.
        """
        gc.collect()
        meter = MemoryMeter(self._device) if memory else None
        clock = self._stage.clock
        if clock is not None:
            clock.start()
        with self._side.gradient_mode():
            synchronize(self._device)
            began = time.perf_counter()
            result = self._stage.run()
            synchronize(self._device)
            ended = time.perf_counter()
        used = Memory() if meter is None else meter.stop()
        if save is not None:
            torch.save(result.detach().cpu(), save)
        return {
            "seconds": ended - began,
            "parts": {} if clock is None else clock.parts(began, ended),
            **used._asdict(),
        }

    def compare(self, first: str, second: str) -> dict[str, Any]:
        """Return the relative difference of two saved results."""
        actual, expected = (torch.load(path, weights_only=True) for path in (first, second))
        return {"difference": golden.relative_error(actual, expected)}

    def unload(self) -> dict[str, Any]:
        """Free the models and inputs."""
        self._stage = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked; a failure becomes its reason."""
        try:
            return getattr(self, request.pop("do"))(**request)
        except Exception as error:
            text = " ".join(str(error).split())
            return {"error": f"{type(error).__name__}: {text}" if text else type(error).__name__}


def _device(kind: str) -> torch.device:
    if kind == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"--device cuda needs a GPU, but torch {torch.__version__} of {sys.executable} sees none: "
            "look at the driver, or install a torch that was built for it."
        )
    # Some of torch's memory functions need the number of a GPU.
    return torch.device(kind, 0) if kind == "cuda" else torch.device(kind)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _side(name: str, reference: Path | None) -> Any:
    if name == "ours":
        from . import ours

        return ours
    from . import release

    release.open_checkout(reference)
    return release


def main() -> int:
    """Answer requests until the input ends."""
    parser = argparse.ArgumentParser(prog="benchmarks.worker")
    parser.add_argument("side", choices=("ours", "release"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--reference", type=Path)
    options = parser.parse_args()
    # Answers alone go to the old stdout: what libraries print goes where errors go.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        worker = Worker(_side(options.side, options.reference), _device(options.device))
        greeting = worker.describe()
    except Exception as error:
        worker, greeting = None, {"error": str(error)}
    print(json.dumps(greeting), file=answers, flush=True)
    if worker is None:
        return 1
    try:
        for line in sys.stdin:
            print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
