"""A real ComfyUI inside this Python process, without its web server: boot once, then run prompts in milliseconds."""

import asyncio
import logging
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .environment import ROOT, SetupError, host_path
from .host_server import HOST_OPTIONS

# Names that the host imports from its own folder and that a project might shadow.
_HOST_MODULES = ("comfy", "nodes", "execution", "server", "folder_paths", "utils")


@dataclass
class RunResult:
    """What one prompt did.

    Attributes
    ----------
    success : bool
        True when every output node ran to its end.
    outputs : dict
        Node id -> what the node showed in the UI (the ``outputs`` of the history entry).
    messages : list of (str, dict)
        Status messages: execution_start, execution_cached, execution_success or execution_error ...
    cached : list of str
        Ids of the nodes whose results were reused.
    executed : list of str
        Ids of the nodes that ran, in order.
    progress : list of (str, int, int)
        Progress-bar updates as (node id, value, maximum).
    previews : int
        Number of progress updates that carried a preview picture.
    validation_error : dict or None
        The host's refusal of the prompt, with the refused inputs of each node under ``node_errors``.
    """

    success: bool
    outputs: dict[str, Any] = field(default_factory=dict)
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    progress: list[tuple[str, int, int]] = field(default_factory=list)
    previews: int = 0
    validation_error: dict[str, Any] | None = None

    @property
    def error(self) -> dict[str, Any] | None:
        """The data of the execution_error message (``exception_message``, ``node_type`` ...), or None."""
        return next((data for kind, data in self.messages if kind == "execution_error"), None)

    @property
    def interrupted(self) -> bool:
        """True when the run was cancelled."""
        return any(kind == "execution_interrupted" for kind, _ in self.messages)

    @property
    def error_message(self) -> str:
        """The failing node's message, or the host's reasons for refusing the prompt; empty on success."""
        if self.error is not None:
            return self.error["exception_message"].strip()
        if self.validation_error is None:
            return ""
        lines = [f"{self.validation_error['message']} {self.validation_error['details']}".strip()]
        for node in self.validation_error["node_errors"].values():
            lines += [f"{reason['message']}: {reason['details']}" for reason in node["errors"]]
        return "\n".join(lines)

    def refused_input(self, node_id: str, name: str) -> str | None:
        """What a node's own check said of an input before anything ran, or None."""
        node = (self.validation_error or {"node_errors": {}})["node_errors"].get(node_id, {"errors": []})
        told = [
            reason["details"] for reason in node["errors"] if reason["type"] == "custom_validation_failed"
        ]
        return next((text.removeprefix(f"{name} - ") for text in told if text.startswith(f"{name} - ")), None)


class InProcessHost:
    """ComfyUI booted in this process; there can be one a process.

    Parameters
    ----------
    base : Path
        Prepared base directory (see ``base_directory.prepare``).
    pack : Path
        Folder of the node pack to load.

    Attributes
    ----------
    on_progress : callable or None
        Called as ``on_progress(node_id, value, maximum)`` on every progress update.
    pack_loaded : bool
        Whether the host accepted the pack.
    pack_module : module or None
        The pack as the host imported it; its classes are not those of a plain ``import``.

    Raises
    ------
    SetupError
        When there is no host, or another module took one of its names first.
    """

    def __init__(self, base: Path, pack: Path = ROOT) -> None:
        self.base = Path(base)
        self.path = host_path()
        self._boot()
        import execution
        import nodes
        import server

        self._nodes = nodes
        self._execution = execution
        self.loop = asyncio.new_event_loop()
        self.server = server.PromptServer(self.loop)
        self._events: list[tuple[str, Any]] = []
        # Nobody listens to the unstarted server: keep its events instead of queueing them for sockets.
        self.server.send_sync = lambda event, data, sid=None: self._events.append((event, data))
        self.loop.run_until_complete(nodes.init_builtin_extra_nodes())
        self.pack_loaded: bool = self.loop.run_until_complete(
            nodes.load_custom_node(str(pack), module_parent="custom_nodes")
        )
        self.pack_module = sys.modules.get(str(pack).replace(".", "_x_"))
        self._progress: list[tuple[str, int, int]] = []
        self._previews = 0
        self.on_progress: Callable[[str, int, int], None] | None = None
        self._hook_progress()
        self.forget()

    def _boot(self) -> None:
        if not (self.path / "main.py").is_file():
            raise SetupError(
                "There is no ComfyUI in .dev/host: run `python dev.py test` once, or set COMFYUI_PATH."
            )
        for name in _HOST_MODULES:
            loaded = getattr(sys.modules.get(name), "__file__", None)
            if loaded and self.path not in Path(loaded).resolve().parents:
                raise SetupError(
                    f"the module {name} was imported from {loaded} before the host: import ours otherwise."
                )
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        sys.path.insert(0, str(self.path))
        own_argv = sys.argv
        sys.argv = ["main.py", *HOST_OPTIONS, "--base-directory", str(self.base)]
        try:
            import comfy.options

            comfy.options.enable_args_parsing()
            import comfy.cli_args
        finally:
            sys.argv = own_argv
        # Before nodes, which puts comfy/ first on sys.path, where comfy/utils.py shadows this package.
        import utils.extra_config  # noqa: F401

        logging.getLogger("comfyui").setLevel(logging.WARNING)

    def _hook_progress(self) -> None:
        import comfy.model_management
        import comfy.utils
        from comfy_execution.utils import get_executing_context

        def hook(
            value: int, total: int, preview: Any, prompt_id: str | None = None, node_id: str | None = None
        ) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            context = get_executing_context()
            node = node_id or (context.node_id if context else None)
            self._progress.append((node, int(value), int(total)))
            self._previews += preview is not None
            if self.on_progress is not None:
                self.on_progress(node, int(value), int(total))

        comfy.utils.set_progress_bar_global_hook(hook)

    def forget(self) -> None:
        """Drop every cached node result, as a fresh server would have it."""
        cache = self._execution.CacheType.CLASSIC
        self.executor = self._execution.PromptExecutor(
            self.server, cache_type=cache, cache_args={"lru": 0, "ram": 0}
        )

    def node(self, node_id: str) -> type:
        """Return the class of the node type ``node_id``.

        Raises
        ------
        KeyError
            When the host knows no such node.
        """
        return self._nodes.NODE_CLASS_MAPPINGS[node_id]

    def interrupt(self) -> None:
        """Ask the running prompt to stop, as the UI's cancel button does; call it from ``on_progress`` or a thread."""
        self._nodes.interrupt_processing()

    def run(self, prompt: dict[str, Any], **extra_data: Any) -> RunResult:
        """Validate and execute an API-format prompt and say what happened.

        Parameters
        ----------
        prompt : dict
            Node id -> ``{"class_type": ..., "inputs": ...}``.
        extra_data : Any
            Extra data of the request, such as ``extra_pnginfo``.
        """
        return self.loop.run_until_complete(self._run(prompt, extra_data))

    async def _run(self, prompt: dict[str, Any], extra_data: dict[str, Any]) -> RunResult:
        prompt_id = uuid.uuid4().hex
        valid, error, outputs, node_errors = await self._execution.validate_prompt(prompt_id, prompt, None)
        if not valid:
            return RunResult(False, validation_error={**error, "node_errors": node_errors})
        self._progress, self._previews = [], 0
        self._events.clear()
        # With a client id the executor also sends the events that say which node runs.
        data = {**extra_data, "client_id": "in-process"}
        threads = torch.get_num_threads()
        try:
            await self.executor.execute_async(prompt, prompt_id, data, outputs)
        finally:
            torch.set_num_threads(threads)
        messages = list(self.executor.status_messages)
        executed = [
            data["node"]
            for event, data in self._events
            if event == "executing" and data.get("node") is not None
        ]
        return RunResult(
            success=any(kind == "execution_success" for kind, _ in messages),
            outputs=self.executor.history_result["outputs"],
            messages=messages,
            cached=[node for kind, info in messages if kind == "execution_cached" for node in info["nodes"]],
            executed=executed,
            progress=list(self._progress),
            previews=self._previews,
            # A prompt with one bad and one good output runs the good one; the refusal is not lost.
            validation_error={"message": "", "details": "", "node_errors": node_errors}
            if node_errors
            else None,
        )
