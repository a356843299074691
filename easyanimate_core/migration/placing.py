"""Where new nodes stand: in columns along their links, below everything that stays."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from .graph import Graph, Node
from .our_nodes import LAYOUTS, TEXT

# A node's title stands above its position.
_TITLE, _GAP, _COLUMN_GAP = 30, 30, 60
_DEFAULT_SIZE = (300, 100)
# No canvas is as large; numbers beyond are damage.
_FAR_AWAY = 1e9


def place(graph: Graph, groups: Any) -> None:
    """Give all new nodes a position and a size.

    Parameters
    ----------
    graph : Graph
        The new workflow; the ``pos`` of its new nodes is that of the old ones.
    groups : list or None
        Groups of the workflow.
    """
    new = [node for node in graph.nodes if node.new]
    starts = [_pair(node.stored.get("pos"), (0, 0)) for node in new]
    bottoms = [_bottom(node.stored) for node in graph.nodes if not node.new]
    bottoms += map(_group_bottom, groups if isinstance(groups, list) else ())
    x = min((start[0] for start in starts), default=0)
    top = max(bottoms) + _COLUMN_GAP + _TITLE if bottoms else min((start[1] for start in starts), default=0)
    columns = defaultdict(list)
    for node, level in _levels(graph, new).items():
        columns[level].append(node)
    for _, column in sorted(columns.items()):
        y = top
        for node in column:
            node.stored["pos"], node.stored["size"] = [x, y], _size(node)
            y += node.stored["size"][1] + _GAP + _TITLE
        x += max(node.stored["size"][0] for node in column) + _COLUMN_GAP


def _levels(graph: Graph, new: list[Node]) -> dict[Node, int]:
    """Return for each node the length of the longest way to it."""
    levels = dict.fromkeys(new, 0)
    onward, waiting = defaultdict(list), dict.fromkeys(new, 0)
    for edge in graph.edges:
        if edge.target.new and edge.origin.node.new:
            onward[edge.origin.node].append(edge.target)
            waiting[edge.target] += 1
    ready = [node for node in new if not waiting[node]]
    for node in ready:
        for target in onward[node]:
            levels[target] = max(levels[target], levels[node] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    return levels


def _size(node: Node) -> list[float]:
    """Return our size, or the user's where it gives a text more room."""
    size = LAYOUTS[node.type].size
    room = _pair(node.stored.get("size"), size) if node.type == TEXT else size
    return [max(pair) for pair in zip(size, room, strict=True)]


def _bottom(stored: Mapping[str, Any]) -> float:
    return _pair(stored.get("pos"), (0, 0))[1] + _pair(stored.get("size"), _DEFAULT_SIZE)[1]


def _group_bottom(group: Any) -> float:
    bounding = group.get("bounding") if isinstance(group, Mapping) else None
    height = _pair(bounding[2:] if isinstance(bounding, list) else None, (0, 0))[1]
    return _pair(bounding, (0, 0))[1] + height


def _pair(value: Any, default: tuple[float, float]) -> tuple[float, float]:
    """Return two numbers that the file has as a list or, in older ones, as an object."""
    if isinstance(value, Mapping):
        value = [value.get("0"), value.get("1")]
    usable = isinstance(value, list) and len(value) >= 2 and all(map(_is_coordinate, value[:2]))
    return (value[0], value[1]) if usable else default


def _is_coordinate(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _FAR_AWAY
