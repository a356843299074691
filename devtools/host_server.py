"""A real ComfyUI server in a process of its own, and a small client of its HTTP and websocket interface."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import websocket

from .environment import host_path

ADDRESS = "127.0.0.1"
# Plain --cpu would pick sub-quadratic attention; previews are off by default.
HOST_OPTIONS = ("--cpu", "--use-pytorch-cross-attention", "--preview-method", "latent2rgb")


class ServerError(RuntimeError):
    """The server did not start, refused a prompt, or a run failed."""


def free_port() -> int:
    """Return a TCP port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return probe.getsockname()[1]


def command_line(base: Path, port: int, options: Sequence[str] = ()) -> list[str]:
    """Return the command that starts the host on the CPU with ``base`` as its base directory and further options."""
    database = (base / "user" / "comfyui.db").as_posix()
    return [
        sys.executable,
        str(host_path() / "main.py"),
        *HOST_OPTIONS,
        *("--listen", ADDRESS, "--port", str(port)),
        *("--base-directory", str(base)),
        *("--database-url", f"sqlite:///{database}"),
        *("--disable-auto-launch", "--disable-api-nodes"),
        *options,
    ]


def environment_variables() -> dict[str, str]:
    """Return the server's environment: no model hub, UTF-8, unbuffered log."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


class HostServer:
    """A ComfyUI server process; use it as a context manager.

    Parameters
    ----------
    base : Path
        Prepared base directory (see ``base_directory.prepare``).
    log : Path
        File that the server's output goes to; it is kept.
    port : int, optional
        TCP port on the loopback address; a free one by default.
    options : sequence of str, optional
        Further options of the host's command line.
    environment : mapping, optional
        Environment variables beside :func:`environment_variables`.
    """

    def __init__(
        self,
        base: Path,
        log: Path,
        port: int | None = None,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.base = Path(base)
        self.environment = {**environment_variables(), **(environment or {})}
        self.options = tuple(options)
        self.log = Path(log)
        self.port = port or free_port()
        self.url = f"http://{ADDRESS}:{self.port}"
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "HostServer":
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()

    def start(self, timeout: float = 180) -> None:
        """Start the process and wait until it answers.

        Raises
        ------
        ServerError
            When the process ends or does not answer within ``timeout`` seconds.
        """
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command_line(self.base, self.port, self.options),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.base,
                env=self.environment,
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ServerError(f"ComfyUI ended at start; the end of {self.log}:\n{self.log_tail()}")
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        self.stop()
        raise ServerError(
            f"ComfyUI did not answer within {timeout:.0f} s; the end of {self.log}:\n{self.log_tail()}"
        )

    def stop(self) -> None:
        """End the process that ``start`` started."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def log_text(self) -> str:
        """Return everything that the server has logged so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def log_tail(self, lines: int = 30) -> str:
        """Return the last ``lines`` lines of the log."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def get(self, path: str, timeout: float = 30) -> Any:
        """GET ``path`` and return the decoded JSON."""
        with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: Any, timeout: float = 30) -> Any:
        """POST ``body`` as JSON and return the decoded answer, or None where it is empty.

        Raises
        ------
        ServerError
            With the server's own answer when it refuses the request.
        """
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise ServerError(error.read().decode(errors="replace")) from error
        return json.loads(text) if text.strip() else None

    def object_info(self) -> dict[str, Any]:
        """Return the description of every node that the server knows."""
        return self.get("/object_info")

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return the history entry of a run, or None while there is none."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def view(self, filename: str, subfolder: str = "", kind: str = "output") -> bytes:
        """Return the bytes of an output, input or temp file, as the UI would fetch them."""
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": kind})
        with urllib.request.urlopen(f"{self.url}/view?{query}", timeout=30) as answer:
            return answer.read()

    def interrupt(self) -> None:
        """Ask the server to cancel the running prompt."""
        self.post("/interrupt", {})

    def submit(self, prompt: dict[str, Any], extra_data: dict[str, Any] | None = None) -> "Run":
        """Queue an API-format prompt and return the run, already listening for its events.

        Raises
        ------
        ServerError
            When the server refuses the prompt; the message is the server's answer.
        """
        return Run(self, prompt, extra_data)

    def run(self, prompt: dict[str, Any], timeout: float = 300) -> dict[str, Any]:
        """Queue a prompt, wait for its end and return its history entry.

        Raises
        ------
        ServerError
            When the prompt is refused, fails or is cancelled.
        """
        with self.submit(prompt) as run:
            return run.wait(timeout)


class Run:
    """One queued prompt: its websocket events and its result.

    Attributes
    ----------
    prompt_id : str
        The server's id of this run.
    events : list of (str, dict)
        JSON events received so far, oldest first.
    previews : int
        Number of binary preview messages received so far.
    """

    def __init__(
        self, server: HostServer, prompt: dict[str, Any], extra_data: dict[str, Any] | None = None
    ) -> None:
        self._server = server
        client = uuid.uuid4().hex
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.previews = 0
        self._socket = websocket.create_connection(
            f"ws://{ADDRESS}:{server.port}/ws?clientId={client}", timeout=30
        )
        try:
            answer = server.post(
                "/prompt", {"prompt": prompt, "client_id": client, "extra_data": extra_data or {}}
            )
        except BaseException:
            self._socket.close()
            raise
        self.prompt_id: str = answer["prompt_id"]

    def __enter__(self) -> "Run":
        """Return the run, which listens already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening; the run itself goes on."""
        self._socket.close()

    def listen(self, timeout: float = 300) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield this run's events as they come, up to and with the one that ends it.

        Raises
        ------
        ServerError
            When the run has not ended within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ServerError(
                    f"the run did not end in time; the end of the log:\n{self._server.log_tail()}"
                )
            self._socket.settimeout(min(left, 5))
            try:
                message = self._socket.recv()
            except websocket.WebSocketTimeoutException:
                continue
            if isinstance(message, bytes):
                self.previews += 1
                continue
            event = json.loads(message)
            kind, data = event["type"], event.get("data") or {}
            if data.get("prompt_id") != self.prompt_id:
                continue
            self.events.append((kind, data))
            yield kind, data
            if kind in ("execution_success", "execution_error", "execution_interrupted"):
                return

    def wait(self, timeout: float = 300) -> dict[str, Any]:
        """Wait for the end of the run and return its history entry.

        Raises
        ------
        ServerError
            When the run fails or is cancelled; the message is the node's own.
        """
        for kind, data in self.listen(timeout):
            if kind == "execution_error":
                raise ServerError(f"{data['node_type']}: {data['exception_message'].strip()}")
            if kind == "execution_interrupted":
                raise ServerError("the run was cancelled")
        return self.wait_for_history()

    def wait_for_history(self) -> dict[str, Any]:
        """Return the history entry of a run that has ended.

        Raises
        ------
        ServerError
            When the server keeps no history of it.
        """
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            # The history is written a moment after the success event.
            if entry := self._server.history(self.prompt_id):
                return entry
            time.sleep(0.05)
        raise ServerError("the run ended but the server kept no history of it")

    def progress(self) -> list[tuple[str, int, int]]:
        """Return the progress events so far as (node id, value, maximum)."""
        return [
            (data["node"], data["value"], data["max"]) for kind, data in self.events if kind == "progress"
        ]

    def cached_nodes(self) -> list[str]:
        """Return the ids of the nodes whose results were reused."""
        return [node for kind, data in self.events if kind == "execution_cached" for node in data["nodes"]]
