"""What a node's result depends on, as text that can be stored and compared after a restart."""

import hashlib
from typing import Any

import torch
from comfy_execution.graph_utils import is_link


def upstream_values(dynprompt: Any, node_id: str, names: list[str]) -> dict[str, Any]:
    """Return the settings of all nodes that inputs of a node come from.

    Parameters
    ----------
    dynprompt : comfy_execution.graph.DynamicPrompt
        The running prompt.
    node_id : str
        The node.
    names : list of str
        Its inputs to follow; inputs that are not connected are skipped.

    Returns
    -------
    dict
        Value by place, such as ``"model > LoraLoaderModelOnly.strength_model"``. Node ids do not occur, so a graph that
        was saved and loaded again gives the same; a node that is reached again counts by the place where it was
        reached first.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}

    def follow(place: str, link: list) -> None:
        source, output = link
        node = dynprompt.get_node(source)
        values[place] = f"output {output} of {node['class_type']}"
        if source in places:
            values[place] += f" that {places[source]} comes from"
            return
        places[source] = place
        for name, value in sorted(node["inputs"].items()):
            inner = f"{place} > {node['class_type']}.{name}"
            if is_link(value):
                follow(inner, value)
            else:
                values[inner] = value

    inputs = dynprompt.get_node(node_id)["inputs"]
    for name in names:
        if is_link(inputs.get(name)):
            follow(name, inputs[name])
    return values


def frames_digest(frames: torch.Tensor | None) -> str | None:
    """Return number, size and SHA-256 of frames' float32 values as text, or None of None."""
    if frames is None:
        return None
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy().tobytes())
    return f"{'x'.join(map(str, frames.shape))} {digest.hexdigest()}"
