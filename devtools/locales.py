"""The nodes' texts in the user interface: writes the English file, and tells what a translation lacks.

``python -m devtools.locales``, after any change of a node's name, description, inputs or outputs.
"""

import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .environment import ROOT

FOLDER = ROOT / "locales"
COMMAND = ".dev/venv/bin/python -m devtools.locales"
SOURCE = "en"
TRANSLATIONS = ("zh",)


def english_texts(infos: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the content of the English ``nodeDefs.json``.

    Parameters
    ----------
    infos : mapping
        Node id -> the host's description of the node, as ``GET /object_info`` has it.
    """
    return {node: _node_texts(info) for node, info in infos.items()}


def _node_texts(info: Mapping[str, Any]) -> dict[str, Any]:
    texts: dict[str, Any] = {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {name: _input_texts(name, options) for name, options in _inputs(info)},
    }
    names_and_types = zip(info["output_name"], info["output"], info["output_tooltips"], strict=True)
    outputs = {
        # The interface has words of its own for outputs that are named after their type.
        str(index): ({} if name == kind else {"name": name}) | {"tooltip": tooltip}
        for index, (name, kind, tooltip) in enumerate(names_and_types)
    }
    return texts | ({"outputs": outputs} if outputs else {})


def _inputs(info: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for group in ("required", "optional"):
        for name, described in info["input"].get(group, {}).items():
            yield name, described[1]


def _input_texts(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    return {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}


def flat(texts: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Return every text with the path to it, such as ``EasyAnimateV3Loader.inputs.checkpoint.tooltip``."""
    found = {}
    for key, value in texts.items():
        path = f"{above}{key}"
        found |= flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return found


def path(language: str, name: str = "nodeDefs") -> Path:
    """Return the file of a language."""
    return FOLDER / language / f"{name}.json"


def read(language: str, name: str = "nodeDefs") -> dict[str, Any]:
    """Return the content of a language's file; nothing where there is none."""
    file = path(language, name)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write(texts: Mapping[str, Any]) -> None:
    """Write the English ``nodeDefs.json``."""
    path(SOURCE).parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(texts, ensure_ascii=False, indent=2) + "\n"
    path(SOURCE).write_text(content, encoding="utf-8", newline="\n")


def pack_infos(host: Any) -> dict[str, dict[str, Any]]:
    """Return the host's description of every node of the pack, from an ``InProcessHost``."""
    listed = host.loop.run_until_complete(host.pack_module.nodes.EasyAnimateV3Extension().get_node_list())
    ids = [node.GET_SCHEMA().node_id for node in listed]
    return {node: host.node(node).GET_NODE_INFO_V1() for node in ids}


def to_do(language: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return what has to be done in a translation, a line each, after ``old`` English texts became ``new``."""
    translated = flat(read(language))
    lines = [f"missing: {key} ({new[key]})" for key in new if key not in translated]
    lines += [f"left over: {key}" for key in translated if key not in new]
    return lines + [
        f"check, the English changed: {key} ({new[key]})" for key in new if old.get(key, new[key]) != new[key]
    ]


def main() -> int:
    """Write the English file; tell what the translations lack, and fail where they lack something."""
    from . import base_directory
    from .inprocess_host import InProcessHost

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        host = InProcessHost(base_directory.prepare(Path(folder), link_pack=False))
        texts = english_texts(pack_infos(host))
    old, new = flat(read(SOURCE)), flat(texts)
    write(texts)
    print(
        f"{path(SOURCE)}: {len(new)} texts of {len(texts)} nodes, {'the same' if old == new else 'written anew'}"
    )
    lines = {language: to_do(language, old, new) for language in TRANSLATIONS}
    for language, found in lines.items():
        print(f"{path(language)}: {len(found) or 'nothing'} to do", *found, sep="\n  ")
    return 1 if any(lines.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
