"""The format that the UI saves, to a graph and back."""

import copy
from collections.abc import Mapping
from typing import Any

from .graph import Edge, Graph, Node, Output
from .our_nodes import LAYOUTS
from .placing import place
from .report import MigrationError
from .their_nodes import CERTAIN, CONTROL, LATER_SAMPLERS, widget_values

_DAMAGED = "This is no workflow that ComfyUI saved: "


def is_ui_format(content: Any) -> bool:
    """Tell whether a file's content looks like the format that the UI saves."""
    return (
        isinstance(content, Mapping)
        and isinstance(content.get("nodes"), list)
        and isinstance(content.get("links"), list)
    )


def read(workflow: Mapping[str, Any]) -> Graph:
    """Return the graph of a workflow.

    Raises
    ------
    MigrationError
        If it is damaged, or the nodes to convert stand in a subgraph or a group node.
    """
    _refuse_nested(workflow)
    graph = Graph([_node(stored) for stored in workflow["nodes"]])
    nodes = {node.id: node for node in graph.nodes}
    if len(nodes) < len(graph.nodes):
        raise MigrationError(f"{_DAMAGED}two of its nodes have the same id.")
    for link in workflow["links"]:
        if not isinstance(link, list) or len(link) < 6 or not _are_numbers(link[0], link[2], link[4]):
            raise MigrationError(f"{_DAMAGED}its links are not lists of six values.")
        number, origin, index, target, slot, kind = link[:6]
        if not isinstance(origin, int | str) or not isinstance(target, int | str):
            continue
        source, sink = nodes.get(origin), nodes.get(target)
        inputs = sink.stored.get("inputs") or [] if sink else []
        # The UI drops links without both ends, too.
        if source is None or not slot < len(inputs):
            continue
        graph.edges.append(
            Edge(Output(source, index, str(kind)), sink, str(inputs[slot].get("name", "")), number, slot)
        )
    return graph


def _node(stored: Any) -> Node:
    number = stored.get("id") if isinstance(stored, Mapping) else None
    if not isinstance(number, int | str) or not isinstance(stored.get("type"), str):
        raise MigrationError(f"{_DAMAGED}one of its nodes has no type or no id.")
    for key in ("inputs", "outputs"):
        slots = stored.get(key) or []
        if not isinstance(slots, list) or not all(isinstance(slot, Mapping) for slot in slots):
            raise MigrationError(f"{_DAMAGED}the {key} of node {number} are not a list of slots.")
    kind = stored["type"]
    values = widget_values(f"{kind} ({number})", kind, stored.get("widgets_values"))
    return Node(number, kind, values, copy.deepcopy(dict(stored)))


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return the mappings in a list or in a mapping's values; none where the file has something else."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _refuse_nested(workflow: Mapping[str, Any]) -> None:
    definitions, extra = workflow.get("definitions"), workflow.get("extra")
    nested = _mappings(definitions.get("subgraphs")) if isinstance(definitions, Mapping) else []
    nested += _mappings(extra.get("groupNodes")) if isinstance(extra, Mapping) else []
    for group in nested:
        for node in _mappings(group.get("nodes")):
            if str(node.get("type")) in CERTAIN | LATER_SAMPLERS:
                raise MigrationError(
                    f"{node['type']} stands in a subgraph or group node: unpack it in ComfyUI, save the workflow and "
                    "convert that file."
                )


def write(graph: Graph, workflow: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``workflow`` with the graph's nodes and links; all else is kept."""
    place(graph, workflow.get("groups"))
    number = max([last(workflow, "last_link_id"), *(edge.id or 0 for edge in graph.edges)])
    for edge in graph.edges:
        if edge.id is None:
            number += 1
            edge.id = number
        if edge.slot is None:
            layout = LAYOUTS[edge.target.type]
            names = [slot[0] for slot in (*layout.inputs, *layout.optional, *layout.widgets)]
            edge.slot = names.index(edge.input)
    result = copy.deepcopy(dict(workflow))
    result["nodes"] = [_stored(node, graph, order) for order, node in enumerate(graph.nodes)]
    result["links"] = [
        [edge.id, edge.origin.node.id, edge.origin.index, edge.target.id, edge.slot, edge.origin.type]
        for edge in sorted(graph.edges, key=lambda edge: edge.id)
    ]
    result["last_node_id"] = max(
        [last(workflow, "last_node_id"), *(node.id for node in graph.nodes if isinstance(node.id, int))]
    )
    result["last_link_id"] = number
    _forget_links(result.get("extra"), {edge.id for edge in graph.edges})
    return result


def last(workflow: Mapping[str, Any], key: str) -> int:
    """Return the file's own count of nodes or links; 0 where it has none."""
    value = workflow.get(key)
    return value if _are_numbers(value) else 0


def _stored(node: Node, graph: Graph, order: int) -> dict[str, Any]:
    """Return a node as the file has it, with its links."""
    stored = _new(node) if node.new else dict(node.stored)
    stored["order"] = order
    into = {edge.slot: edge.id for edge in graph.edges if edge.target is node}
    stored["inputs"] = [
        {**slot, "link": into.get(index)} for index, slot in enumerate(stored.get("inputs") or [])
    ]
    stored["outputs"] = [
        {**slot, "links": [edge.id for edge in graph.edges_from(node, index)] or None}
        for index, slot in enumerate(stored.get("outputs") or [])
    ]
    return stored


def _new(node: Node) -> dict[str, Any]:
    layout = LAYOUTS[node.type]
    slots = [{"name": name, "type": kind} for name, kind in layout.inputs]
    slots += [{"name": name, "shape": 7, "type": kind} for name, kind in layout.optional]
    values = []
    for widget in layout.widgets:
        shape = {"shape": 7} if widget.optional else {}
        slots.append({"name": widget.name, **shape, "type": widget.type, "widget": {"name": widget.name}})
        values.append(node.values.get(widget.name, widget.default))
        if widget.name == "seed":
            values.append(node.values.get(CONTROL, "fixed"))
    return {
        "id": node.id,
        "type": node.type,
        "flags": {},
        "mode": 0,
        **node.stored,
        "inputs": slots,
        "outputs": [{"name": name, "type": kind} for name, kind in layout.outputs],
        "properties": {"Node name for S&R": node.type},
        **({"widgets_values": values} if values else {}),
    }


def _forget_links(extra: Any, kept: set[int]) -> None:
    """Take links that are gone out of the UI's list of bent ones."""
    if not isinstance(extra, dict):
        return
    if "linkExtensions" in extra:
        bends = _mappings(extra["linkExtensions"])
        extra["linkExtensions"] = [bend for bend in bends if bend.get("id") in kept]
    for reroute in _mappings(extra.get("reroutes")):
        if isinstance(reroute.get("linkIds"), list):
            reroute["linkIds"] = [number for number in reroute["linkIds"] if number in kept]
