"""What the steps of a conversion share: the old graph, the new nodes and edges, and the report."""

from collections.abc import Callable
from typing import Any

from .graph import PRIMITIVE, Edge, Graph, Node, Output
from .our_nodes import LAYOUTS
from .report import MigrationError, Report
from .their_nodes import OWN_TYPES

# What a new node takes over from the one that it stands for; the main one more than the others.
_KEPT, _KEPT_BY_MAIN = ("pos", "mode"), ("pos", "mode", "size", "title", "color", "bgcolor")


def output(node: Node, index: int = 0) -> Output:
    """Return an output of a new node."""
    return Output(node, index, LAYOUTS[node.type].outputs[index][1])


class Work:
    """A conversion under way.

    Parameters
    ----------
    graph : Graph
        The old workflow.
    checkpoint : str or None
        Folder to take all models from, in place of what the old workflow names.
    last_id : int
        New ids count on from here.
    """

    def __init__(self, graph: Graph, checkpoint: str | None = None, last_id: int = 0) -> None:
        self.graph = graph
        self.checkpoint = checkpoint
        self.report = Report()
        self.made: dict[Node, list[Node]] = {}
        self.edges: list[Edge] = []
        self.outputs: dict[tuple[Node, int], Output] = {}
        self._last = max([last_id, *(int(node.id) for node in graph.nodes if str(node.id).isdecimal())])
        self._text_ids = bool(graph.nodes) and all(isinstance(node.id, str) for node in graph.nodes)

    def add(self, old: Node, kind: str, main: bool = False, **inputs: Any) -> Node:
        """Add a node that stands for ``old``; the ``main`` one keeps its id, title and colours.

        Parameters
        ----------
        old : Node
            Old node.
        kind : str
            Type of the new one.
        main : bool
            Whether it is the one that matters most of those for ``old``.
        **inputs
            Values of widgets; for an ``Output`` the input is linked, for None it stays as it is.
        """
        number = old.id
        if not main:
            self._last += 1
            number = str(self._last) if self._text_ids else self._last
        kept = _KEPT_BY_MAIN if main else _KEPT
        node = Node(number, kind, stored={k: v for k, v in old.stored.items() if k in kept}, new=True)
        self.made.setdefault(old, []).append(node)
        for name, value in inputs.items():
            if isinstance(value, Output):
                self.connect(node, name, value)
            elif value is not None:
                node.values[name] = value
        return node

    def connect(self, target: Node, name: str, origin: Output) -> None:
        """Link an input of a new node."""
        self.edges.append(Edge(origin, target, name))

    def has(self, old: Node, name: str) -> bool:
        """Tell whether an old node has a widget, with a value or a link in its place: versions differ."""
        return name in old.values or self.graph.edge(old, name) is not None

    def value(self, old: Node, name: str, default: Any = None) -> Any:
        """Return a widget's value, or the default where a link takes its place: the file may keep a stale one."""
        return old.values.get(name, default) if self.graph.edge(old, name) is None else default

    def linked(self, old: Node, name: str) -> Output | None:
        """Return what an old node's input is linked to."""
        edge = self.graph.edge(old, name)
        # Reroutes of the old nodes' own types go with these nodes.
        if edge is not None and edge.origin.type in OWN_TYPES:
            return self.graph.source(old, name)
        return edge.origin if edge is not None else None

    def not_linkable(self, old: Node, *names: str) -> None:
        """Tell of links into widgets that have no input of the same type here."""
        for name in names:
            if self.graph.edge(old, name) is not None:
                self.report.note(
                    f"{old}: the link into {name} is not carried over; set by hand what it stands for."
                )

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
            self.connect(target, name, edge.origin)
            _rename_primitive(edge.origin.node, name)
            return
        self.not_linkable(old, old_name)
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
