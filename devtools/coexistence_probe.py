"""A node pack without nodes: tells a running ComfyUI's routes, what each pack brought, and which functions were replaced.

``devtools.coexistence`` copies it into ``custom_nodes`` with ``host_state.py`` beside it.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import folder_paths
import nodes
from aiohttp import web
from server import PromptServer

from . import host_state

NODE_CLASS_MAPPINGS: dict[str, type] = {}
ROUTE = "/coexistence_probe"
# What packs are known to replace parts of, and what nothing may replace.
_WATCHED = re.compile(
    r"(comfy\w*|nodes|execution|server|folder_paths|latent_preview|node_helpers|app|api_server|middleware|torch|torchvision|"
    r"torchaudio|numpy|PIL|transformers|safetensors|av|aiohttp|asyncio|logging|builtins|json|os|io|random|threading|"
    r"subprocess|warnings|pathlib|tempfile)(\..*)?|.*[/\\]comfy_extras[/\\].*"
)


@PromptServer.instance.routes.get(ROUTE)
async def tell(_request: web.Request) -> web.Response:
    """Answer with routes, packs and the functions that the host's modules hold."""
    answer = {"routes": _routes(), "packs": _packs(), "functions": _functions(), "process": _process()}
    answer["folders"] = {name: list(entry[0]) for name, entry in folder_paths.folder_names_and_paths.items()}
    return web.json_response(answer)


def _routes() -> list[tuple[str, str, str]]:
    """Return (method, path, file of the handler) of every route."""
    found = []
    for route in PromptServer.instance.app.router.routes():
        info = route.resource.get_info() if route.resource is not None else {}
        path = info.get("path") or info.get("formatter") or str(info.get("prefix"))
        found.append((route.method, path, _file(route.handler)))
    return found


def _file(function: Any) -> str:
    try:
        return inspect.getsourcefile(inspect.unwrap(function)) or ""
    except TypeError:
        return ""


def _packs() -> dict[str, dict[str, Any]]:
    """Return, for each folder that was loaded, the ids that it gave its nodes itself."""
    found = {}
    for name, folder in nodes.LOADED_MODULE_DIRS.items():
        ids = []
        for module in list(sys.modules.values()):
            # The host names a pack's module by its whole path.
            if getattr(module, "__file__", None) == str(Path(folder) / "__init__.py"):
                ids = list(getattr(module, "NODE_CLASS_MAPPINGS", None) or [])
        own = f"custom_nodes.{name}"
        listed = [
            key
            for key, kind in nodes.NODE_CLASS_MAPPINGS.items()
            if getattr(kind, "RELATIVE_PYTHON_MODULE", None) == own
        ]
        found[name] = {"folder": folder, "nodes": sorted({*map(str, ids), *listed}), "kept": sorted(listed)}
    return found


def _functions() -> dict[str, str]:
    """Return which function or class each watched name stands for."""
    state = host_state.take(lambda module: not _WATCHED.fullmatch(module))
    return {name: host_state.describe(value) for name, value in state.items() if callable(value)}


def _process() -> dict[str, str]:
    """Return the state of the process beside random numbers, which every run moves on."""
    return {
        name: host_state.describe(value)
        for name, value in host_state.process().items()
        if not name.startswith("random:")
    }
