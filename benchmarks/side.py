"""The process of one side, started, asked and ended from the outside."""

import json
import os
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

OURS, REFERENCE = "ours", "reference"
ROOT = Path(__file__).resolve().parent.parent


class SideError(RuntimeError):
    """A side could not do what it was asked; the message is the reason for the table."""


@dataclass(frozen=True)
class Command:
    """How to start the process of a side.

    Attributes
    ----------
    name : str
        :data:`OURS` or :data:`REFERENCE`.
    python : Path
        Python with the side's packages.
    device : str
        ``"cpu"`` or ``"cuda"``.
    threads : int or None
        CPU threads; torch's own number if None.
    reference : Path or None
        Checkout of the release.
    """

    name: str
    python: Path
    device: str = "cpu"
    threads: int | None = None
    reference: Path | None = None

    def line(self) -> list[str]:
        """Return the program and its arguments."""
        module = "ours" if self.name == OURS else "release"
        line = [str(self.python), "-m", "benchmarks.worker", module, "--device", self.device]
        if self.threads:
            line += ["--threads", str(self.threads)]
        if self.reference is not None:
            line += ["--reference", str(self.reference)]
        return line


class Side:
    """A running process of one side; what :class:`.worker.Worker` does can be asked of it.

    Parameters
    ----------
    command : Command
        How to start it.
    environment : dict, optional
        Further environment variables.
    """

    def __init__(self, command: Command, environment: dict[str, str] | None = None) -> None:
        self.name = command.name
        self._command = command
        self._environment = environment or {}
        self._process: subprocess.Popen[str] | None = None
        self.about: dict[str, Any] = {}

    def __enter__(self) -> "Side":
        """Start the process."""
        self.start()
        return self

    def start(self) -> None:
        """Start the process.

        Raises
        ------
        SideError
            When it cannot work, such as without the release's packages.
        """
        environ = {**os.environ, "PYTHONUTF8": "1", **self._environment}
        # As ComfyUI runs; the tests of this project, which are many tiny operations, set another policy.
        environ.pop("OMP_WAIT_POLICY", None)
        if self._command.threads:
            environ["OMP_NUM_THREADS"] = str(self._command.threads)
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - until close()
        self._process = subprocess.Popen(
            self._command.line(),
            cwd=ROOT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
        )
        try:
            self.about = self._read()
        except SideError:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            with suppress(OSError):
                self._process.stdin.close()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
            self._log.close()
            self._process = None

    def unload(self) -> None:
        """Let the process free the case; one that cannot, such as after a GPU's fault, is ended."""
        if self._process is not None:
            try:
                self.ask("unload")
            except SideError:
                self.close()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to one request; a process that ended before is started anew.

        Raises
        ------
        SideError
            When the work failed, or the process ended.
        """
        if self._process is None:
            self.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def _ended(self) -> SideError:
        """Clear up after a process that is gone, and return what can be told of it."""
        status = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
        self.close()
        return SideError(f"the process ended with status {status}: {last}")
