"""What the steps of a conversion share: the old graph, the new nodes and edges, and the report."""

from collections.abc import Callable
from typing import Any

from .errors import MigrationError
from .graph import PRIMITIVE, Edge, Graph, Node, Output
from .our_nodes import LAYOUTS
from .report import Report
from .their_nodes import OWN_TYPES

# What a new node takes over from the one that it stands for.
_KEPT = ("title", "color", "bgcolor")


class Work:
    """A conversion under way.

    Parameters
    ----------
    graph : Graph
        The old workflow.
    checkpoint : str or None
        Folder to take all models from, in place of what the old workflow names.
    """

    def __init__(self, graph: Graph, checkpoint: str | None = None) -> None:
        self.graph = graph
        self.checkpoint = checkpoint
        self.report = Report()
        self.made: dict[Node, list[Node]] = {}
        self.edges: list[Edge] = []
        self.outputs: dict[tuple[Node, int], Output] = {}
        self._last = max((int(n.id) for n in graph.nodes if str(n.id).isdecimal()), default=0)
        self._text_ids = bool(graph.nodes) and all(isinstance(node.id, str) for node in graph.nodes)

    def start_ids(self, last: Any) -> None:
        """Count new ids on from the file's own last one."""
        if isinstance(last, int):
            self._last = max(self._last, last)

    def drop(self, old: Node) -> None:
        """Let an old node go without one in its place."""
        self.made.setdefault(old, [])

    def add(self, old: Node, kind: str, main: bool = False, **values: Any) -> Node:
        """Add a node that stands for ``old``; the ``main`` one keeps its id, title and colours."""
        stored = {
            key: value
            for key, value in old.stored.items()
            if key in ("pos", "mode") or (main and key in _KEPT)
        }
        if main:
            number = old.id
        else:
            self._last += 1
            number = str(self._last) if self._text_ids else self._last
        node = Node(number, kind, values, stored, new=True)
        self.made.setdefault(old, []).append(node)
        return node

    def output(self, node: Node, index: int = 0) -> Output:
        """Return an output of a new node."""
        return Output(node, index, LAYOUTS[node.type].outputs[index][1])

    def connect(self, target: Node, name: str, origin: Output | None) -> None:
        """Link an input of a new node, where there is something to link."""
        if origin is not None:
            self.edges.append(Edge(origin, target, name))

    def link(self, target: Node, name: str, old: Node, old_name: str) -> bool:
        """Link an input of a new node to what an old node's input was linked to; tell whether it was."""
        edge = self.graph.edge(old, old_name)
        if edge is None:
            return False
        # Reroutes of the old nodes' own types go with these nodes.
        own = edge.origin.type in OWN_TYPES
        origin = self.graph.source(old, old_name) if own else edge.origin
        self.connect(target, name, origin)
        return True

    def carry(
        self,
        target: Node,
        name: str,
        old: Node,
        old_name: str,
        convert: Callable[[Any], Any] | None = None,
        linkable: bool = True,
    ) -> None:
        """Carry a widget's value over, or the link that stands in its place.

        Raises
        ------
        MigrationError
            If the value is not of the kind that it should be.
        """
        edge = self.graph.edge(old, old_name)
        if edge is not None and linkable:
            self.edges.append(Edge(edge.origin, target, name))
            _rename_primitive(edge.origin.node, name)
        elif edge is not None:
            self.report.note(f"{old}: the link into {old_name} is not carried over; set {name} of {target}.")
        if old_name not in old.values:
            return
        value = old.values[old_name]
        try:
            target.values[name] = convert(value) if convert else value
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise MigrationError(f"{old} has {value!r} for {old_name}, which is no value of it.") from error


def _rename_primitive(node: Node, name: str) -> None:
    """Let a primitive node know the widget that it sets now."""
    outputs = node.stored.get("outputs")
    if node.type == PRIMITIVE and outputs and isinstance(outputs[0].get("widget"), dict):
        outputs[0]["widget"]["name"] = name
