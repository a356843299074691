"""A workflow as nodes and edges, the same for the format of the UI and of the API."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

NodeId = int | str
REROUTE = "Reroute"
PRIMITIVE = "PrimitiveNode"


@dataclass(eq=False)
class Node:
    """One node.

    Attributes
    ----------
    id : int or str
        As in the file.
    type : str
        Class name.
    values : dict
        Values of its widgets by name. Empty for nodes whose widgets have no known names.
    stored : dict
        The node as the file has it; of a new node what it takes over (``pos``, ``size``, ``mode``, ``title``, ...).
    new : bool
        Whether the conversion added it.
    """

    id: NodeId
    type: str
    values: dict[str, Any] = field(default_factory=dict)
    stored: dict[str, Any] = field(default_factory=dict)
    new: bool = False

    def __str__(self) -> str:
        """Return type and id, as the user finds it."""
        return f"{self.type} ({self.id})"


class Output(NamedTuple):
    """An output of a node, with its type ("" where the file does not tell)."""

    node: Node
    index: int
    type: str


@dataclass(eq=False)
class Edge:
    """A link from an output to a named input; new ones have no ``id`` and no place among the inputs (``slot``) yet."""

    origin: Output
    target: Node
    input: str
    id: int | None = None
    slot: int | None = None


@dataclass
class Graph:
    """Nodes in the file's order, and all edges."""

    nodes: list[Node]
    edges: list[Edge] = field(default_factory=list)

    def edge(self, node: Node, name: str) -> Edge | None:
        """Return the edge into an input."""
        return next((edge for edge in self.edges if edge.target is node and edge.input == name), None)

    def edges_from(self, node: Node, index: int | None = None) -> list[Edge]:
        """Return the edges out of a node, or out of one of its outputs."""
        return [
            edge
            for edge in self.edges
            if edge.origin.node is node and (index is None or edge.origin.index == index)
        ]

    def source(self, node: Node, name: str) -> Output | None:
        """Return the output that an input really comes from, through reroutes."""
        edge, seen = self.edge(node, name), set()
        while edge is not None and edge.origin.node.type == REROUTE and edge not in seen:
            seen.add(edge)
            reroute = edge.origin.node
            edge = next((other for other in self.edges if other.target is reroute), None)
        return edge.origin if edge is not None else None

    def consumers(self, node: Node) -> list[Node]:
        """Return the nodes that a node's outputs really go to, through reroutes."""
        found, todo, seen = [], [node], set()
        while todo:
            current = todo.pop()
            if current in seen:
                continue
            seen.add(current)
            for edge in self.edges_from(current):
                (todo if edge.target.type == REROUTE else found).append(edge.target)
        return found

    def of_type(self, types: Iterable[str]) -> list[Node]:
        """Return the nodes of these types."""
        types = set(types)
        return [node for node in self.nodes if node.type in types]
