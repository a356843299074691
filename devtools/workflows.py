"""UI-format workflow files as prompts of the host's API, and back-references that tests and the demo need."""

from collections.abc import Iterator, Mapping
from typing import Any

_WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
_NOTES = {"Note", "MarkdownNote"}
_REROUTE = "Reroute"
_MUTED, _BYPASSED = 2, 4
# The UI adds a "control after generate" box behind integers of these names even where a node does not ask.
_SEED_NAMES = {"seed", "noise_seed"}
_CONTROL_CHOICES = {"fixed", "increment", "decrement", "randomize"}


def to_api(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Convert a UI-format workflow to an API-format prompt, as the UI's Run button does.

    Parameters
    ----------
    workflow : mapping
        Content of a workflow file.
    object_info : mapping
        The server's answer to ``GET /object_info``: names and order of every node's inputs.

    Raises
    ------
    ValueError
        For a node type that the server does not know, a bypassed node, or too few widget values.
    """
    links = {link[0]: link for link in workflow["links"]}
    nodes = {node["id"]: node for node in workflow["nodes"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in _NOTES or node["type"] == _REROUTE or node.get("mode") == _MUTED:
            continue
        if node.get("mode") == _BYPASSED:
            raise ValueError(f"node {node['id']} ({node['type']}) is bypassed, which is not supported here")
        if node["type"] not in object_info:
            raise ValueError(
                f"the server knows no node {node['type']}: the pack did not load, or is another version"
            )
        inputs = _widget_values(node, object_info[node["type"]])
        for slot in node.get("inputs", []):
            source = _source(slot.get("link"), links, nodes)
            if source is not None:
                inputs[slot["name"]] = source
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _source(link_id: int | None, links: Mapping[int, list], nodes: Mapping[int, Any]) -> list | None:
    """Return ``[node id, output index]`` that a link comes from, through reroutes."""
    while link_id is not None:
        _, origin, output = links[link_id][:3]
        if nodes[origin]["type"] != _REROUTE:
            return None if nodes[origin].get("mode") == _MUTED else [str(origin), output]
        link_id = nodes[origin]["inputs"][0].get("link")
    return None


def widget_inputs(info: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield (name, type, options) of every input that the UI shows as a widget, in the UI's order."""
    for group in ("required", "optional"):
        described = info["input"].get(group, {})
        for name in info.get("input_order", {}).get(group, described):
            kind, *rest = described[name]
            options = rest[0] if rest else {}
            if (isinstance(kind, list) or kind in _WIDGET_TYPES) and not options.get("forceInput"):
                yield name, kind, options


def _widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    stored = node.get("widgets_values") or []
    if isinstance(stored, Mapping):
        return dict(stored)
    remaining = list(stored)
    values = {}
    for name, kind, options in widget_inputs(info):
        if not remaining:
            raise ValueError(f"node {node['id']} ({node['type']}) stores no value for its widget {name}")
        values[name] = remaining.pop(0)
        controlled = options.get("control_after_generate") or (kind == "INT" and name in _SEED_NAMES)
        if controlled and remaining and remaining[0] in _CONTROL_CHOICES:
            remaining.pop(0)
    return values


# Outputs of EasyAnimateV3Loader by the node that loads the same from a single file.
_SINGLE_FILE_LOADERS = {
    "EasyAnimateV3TransformerLoader": 0,
    "CLIPLoader": 1,
    "EasyAnimateV3VAELoader": 2,
    "CLIPVisionLoader": 3,
}


def with_checkpoint(
    prompt: Mapping[str, Mapping[str, Any]], checkpoint: str, values: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return a prompt that loads a checkpoint folder where it loaded single files.

    Parameters
    ----------
    prompt : mapping
        API-format prompt.
    checkpoint : str
        Folder that EasyAnimateV3Loader lists.
    values : mapping
        Inputs to set, by name, in all nodes that have them and no link there.
    """
    single = {
        node_id: _SINGLE_FILE_LOADERS[node["class_type"]]
        for node_id, node in prompt.items()
        if node["class_type"] in _SINGLE_FILE_LOADERS
    }
    inputs = {"checkpoint": checkpoint, "weight_dtype": "default"}
    changed = {"checkpoint": {"class_type": "EasyAnimateV3Loader", "inputs": inputs}}
    for node_id, node in prompt.items():
        if node_id in single:
            continue
        inputs = {
            name: ["checkpoint", single[value[0]]]
            if isinstance(value, list) and value[0] in single
            else value
            for name, value in node["inputs"].items()
        }
        inputs |= {
            name: value for name, value in values.items() if not isinstance(inputs.get(name, []), list)
        }
        changed[node_id] = {**node, "inputs": inputs}
    return changed


def nodes_of(prompt: Mapping[str, Any], class_type: str) -> list[str]:
    """Return the ids of a prompt's nodes of one type."""
    return [node_id for node_id, node in prompt.items() if node["class_type"] == class_type]


def saved_files(outputs: Mapping[str, Any], suffix: str) -> list[dict[str, str]]:
    """Return the files (``filename``, ``subfolder``, ``type``) with this suffix that a run's nodes showed."""
    shown = (
        item
        for output in outputs.values()
        for value in output.values()
        if isinstance(value, list)
        for item in value
    )
    return [
        item for item in shown if isinstance(item, dict) and str(item.get("filename", "")).endswith(suffix)
    ]
