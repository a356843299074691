"""Which names of ComfyUI the pack uses: public ones, and a list of others in one file, each with its reason."""

import ast
import importlib
import re

import pytest

from devtools.environment import ROOT

INTERNALS = ROOT / "easyanimate_core" / "host" / "internals.py"
CORE = sorted((ROOT / "easyanimate_core").rglob("*.py"))
SOURCES = [path for path in (*CORE, *sorted((ROOT / "nodes").glob("*.py"))) if path != INTERNALS]
# What ComfyUI documents for packs, and the modules that its own extra nodes build native models from.
PUBLIC = {
    "comfy_api.latest",
    "comfy_execution.graph_utils",
    "folder_paths",
    "node_helpers",
    "nodes",
    *(
        f"comfy.{name}"
        for name in (
            "clip_vision",
            "conds",
            "latent_formats",
            "model_base",
            "model_management",
            "model_patcher",
            "model_sampling",
            "ops",
            "patcher_extension",
            "sample",
            "samplers",
            "sd",
            "supported_models_base",
            "utils",
        )
    ),
}
CONSTANT = re.compile("[A-Z]+_[A-Z_]+")
# A name for packs to hang a wrapper on.
WRAPPER = "comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL"
HOST = {name.split(".")[0] for name in PUBLIC} | {"comfy_execution", "execution", "latent_preview", "server"}


def imported(path):
    """Yield the host's modules that a file imports, and the names that it takes from them, as (module, name)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        yield from ((module, name) for module, name in found if module.split(".")[0] in HOST)


def attributes(path):
    """Yield every dotted name of a file that begins with a module of the host, such as ``comfy.ops.manual_cast``."""
    modules = {module.split(".")[0] for module, name in imported(path) if name is None} - {"nodes"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name) and node.id in modules:
            yield ".".join([node.id, *reversed(parts)])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_public_names_outside_the_list(path):
    names = list(imported(path))
    if path in CORE and "host" not in path.parts:
        assert names == []
    assert {module for module, _ in names} <= PUBLIC
    dotted = [*attributes(path), *(f"{module}.{name}" for module, name in names if name)]
    assert [name for name in dotted if any(part.startswith("_") for part in name.split("."))] == []
    # Module constants are the host's own bookkeeping.
    assert [name for name in dotted if CONSTANT.fullmatch(name.split(".")[-1])] in ([], [WRAPPER])


def test_every_listed_name_is_used_and_has_its_reason():
    source = INTERNALS.read_text(encoding="utf-8")
    lines = source.splitlines()
    used = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module != "typing":
            above = node.lineno - 2
            while lines[above].startswith("from "):
                above -= 1
            assert lines[above].startswith("# "), node.module
            for alias in node.names:
                assert re.search(rf"\b{alias.name}\b", used), alias.name
        if isinstance(node, ast.FunctionDef):
            assert ast.get_docstring(node)
            assert f"{node.name}(" in used, node.name


def test_this_comfyui_has_every_name(host):
    """A name that a newer host drops is told here, and not by the first user who meets it."""
    for path in (*SOURCES, INTERNALS):
        for module, name in imported(path):
            found = importlib.import_module(module)
            assert name is None or hasattr(found, name), f"{path.name}: {module}.{name}"
        for dotted in attributes(path):
            parts = dotted.split(".")
            found = importlib.import_module(parts[0])
            for index, part in enumerate(parts[1:], 1):
                if not hasattr(found, part):
                    found = importlib.import_module(".".join(parts[: index + 1]))
                else:
                    found = getattr(found, part)
