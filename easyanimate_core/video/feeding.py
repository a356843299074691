"""Frames into a running process that may stand still, which must stop neither a cancel nor the queue behind it."""

import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np

from .errors import VideoWriteError

# A full second pass over a large file on a slow drive changes the file all the time.
STALLED_SECONDS = 600
_POLL_SECONDS = 0.2
_END_SECONDS = 5.0


class Feed:
    """Gives frames to a process and waits for it, for as long as it goes on.

    Attributes
    ----------
    refused : bool
        Whether the process stopped taking frames before the last one.
    """

    def __init__(
        self, process: subprocess.Popen, path: Path, output: Path, check: Callable[[], None] | None
    ) -> None:
        self.refused = False
        self._process = process
        self._path, self._output = path, output
        self._check = check or (lambda: None)
        # Only a thread can wait for a pipe on every system; the frames themselves are made in this one.
        self._writer = ThreadPoolExecutor(1, "easyanimate-ffmpeg")

    def all_of(self, frames: Iterable[np.ndarray]) -> int:
        """Give all frames, wait for the end of the process and return the number of frames that it took."""
        count = 0
        for frame in frames:
            self._check()
            written = self._writer.submit(_write, self._process.stdin, frame)
            self._wait(lambda seconds, job=written: bool(wait([job], seconds).done))
            if not written.result():
                self.refused = True
                break
            count += 1
        self._process.stdin.close()
        self._wait(self._ended)
        return count

    def close(self) -> None:
        """End the process if it runs, and with it all that waits for it."""
        if self._process.poll() is None:
            self._process.kill()
            # A disk that does not answer holds even a killed process.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
        # A program that ffmpeg started may hold the pipe for longer, and with it the thread.
        self._writer.shutdown(wait=bool(wait([self._writer.submit(int)], _END_SECONDS).done))
        self._process.stdin.close()

    def _ended(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _wait(self, step: Callable[[float], bool]) -> None:
        # Counted in turns and not by a clock, since a computer may sleep in between.
        turns, state = 0, self._state()
        while not step(_POLL_SECONDS):
            self._check()
            before, state = state, self._state()
            turns = turns + 1 if state == before else 0
            if turns * _POLL_SECONDS >= STALLED_SECONDS:
                raise VideoWriteError(
                    f"ffmpeg stood still for {STALLED_SECONDS / 60:g} minutes before {self._path} was complete: check "
                    "the disk and run it again."
                )

    def _state(self) -> tuple[int, int] | None:
        try:
            status = self._output.stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns


@contextmanager
def fed(
    process: subprocess.Popen, path: Path, output: Path, check: Callable[[], None] | None
) -> Iterator[Feed]:
    """Give what feeds a process through its standard input; the process is dead at the end of the block.

    Parameters
    ----------
    process : subprocess.Popen
        With a pipe without a buffer as its standard input.
    path : Path
        The file that is to come of it, for messages.
    output : Path
        The file that it writes: while this changes, the process is at work.
    check : callable or None
        Is called all the time; what it raises ends the block.
    """
    feed = Feed(process, path, output, check)
    try:
        yield feed
    finally:
        feed.close()


def _write(pipe: IO[bytes], frame: np.ndarray) -> bool:
    """Write a frame and tell whether it was taken."""
    left = frame.data.cast("B")
    try:
        while left:
            left = left[pipe.write(left) :]
    except OSError:
        return False
    return True
