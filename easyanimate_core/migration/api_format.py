"""The format of the API ("Export (API)"), to a graph and back."""

from collections.abc import Mapping
from typing import Any

from .graph import Edge, Graph, Node, Output
from .our_nodes import LAYOUTS


def prompt_of(content: Any) -> Mapping[str, Any] | None:
    """Return the prompt in a file's content, bare or wrapped as for ``POST /prompt``; None if there is none."""
    if not isinstance(content, Mapping):
        return None
    if _is_prompt(content.get("prompt")):
        return content["prompt"]
    return content if _is_prompt(content) else None


def _is_prompt(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_node, value.values()))


def _is_node(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("class_type"), str)
        and isinstance(value.get("inputs"), Mapping)
    )


def read(prompt: Mapping[str, Any]) -> Graph:
    """Return the graph of a prompt; what type an output has is not in it."""
    nodes = {key: Node(key, stored["class_type"], stored=dict(stored)) for key, stored in prompt.items()}
    graph = Graph(list(nodes.values()))
    for key, node in nodes.items():
        for name, value in prompt[key]["inputs"].items():
            if _is_link(value, nodes):
                graph.edges.append(Edge(Output(nodes[str(value[0])], value[1], ""), node, name))
            else:
                node.values[name] = value
    return graph


def _is_link(value: Any, nodes: Mapping[str, Node]) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and str(value[0]) in nodes and isinstance(value[1], int)
    )


def write(graph: Graph) -> dict[str, Any]:
    """Return the graph as a prompt."""
    prompt = {node.id: _written(node) for node in graph.nodes}
    for edge in graph.edges:
        prompt[edge.target.id]["inputs"][edge.input] = [edge.origin.node.id, edge.origin.index]
    return prompt


def _written(node: Node) -> dict[str, Any]:
    """Return a node as the file has it, without its links."""
    if not node.new:
        return {**node.stored, "inputs": dict(node.values)}
    widgets = LAYOUTS[node.type].widgets
    return {
        "inputs": {widget.name: node.values.get(widget.name, widget.default) for widget in widgets},
        "class_type": node.type,
        "_meta": {"title": node.stored.get("title", node.type)},
    }
