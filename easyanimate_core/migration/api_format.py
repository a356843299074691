"""The format of the API ("Export (API)"), to a graph and back."""

from collections.abc import Mapping
from typing import Any

from .graph import Edge, Graph, Node, Output
from .our_nodes import LAYOUTS
from .their_nodes import CONTROL


def is_api_format(content: Any) -> bool:
    """Tell whether a file's content looks like a prompt of the API."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(
            isinstance(node, Mapping)
            and isinstance(node.get("class_type"), str)
            and isinstance(node.get("inputs"), Mapping)
            for node in content.values()
        )
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
    prompt = {}
    for node in graph.nodes:
        links = {
            edge.input: [edge.origin.node.id, edge.origin.index]
            for edge in graph.edges
            if edge.target is node
        }
        if not node.new:
            prompt[node.id] = {**node.stored, "inputs": {**node.values, **links}}
            continue
        widgets = {
            widget.name: node.values.get(widget.name, widget.default) for widget in LAYOUTS[node.type].widgets
        }
        title = node.stored.get("title", node.type)
        prompt[node.id] = {
            "inputs": {**widgets, **links},
            "class_type": node.type,
            "_meta": {"title": title},
        }
        prompt[node.id]["inputs"].pop(CONTROL, None)
    return prompt
