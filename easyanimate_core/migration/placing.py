"""Where new nodes stand: at the old one's place, then below or beside it, over nothing else."""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, NamedTuple

from .graph import Node
from .our_nodes import LAYOUTS

# A node's title stands above its position.
_TITLE = 30
_GAP = 30
_DEFAULT_SIZE = (300, 100)
# No canvas is as large; numbers beyond are damage.
_FAR_AWAY = 1e9


class Box(NamedTuple):
    """A rectangle: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Tell whether two rectangles share any area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def within(self, other: "Box") -> bool:
        """Tell whether this one lies inside another."""
        return (
            other.left <= self.left
            and other.top <= self.top
            and self.right <= other.right
            and self.bottom <= other.bottom
        )


def place(kept: Iterable[Node], made: Mapping[Node, list[Node]], groups: Any) -> None:
    """Give all new nodes a position and a size.

    Parameters
    ----------
    kept : iterable of Node
        Nodes that stay as they are.
    made : mapping
        New nodes for each old one.
    groups : list or None
        Groups of the workflow.
    """
    taken = [
        _box(_pair(node.stored.get("pos"), (0, 0)), _pair(node.stored.get("size"), _DEFAULT_SIZE))
        for node in kept
    ]
    frames = [
        _frame(group) for group in (groups if isinstance(groups, list) else []) if isinstance(group, Mapping)
    ]
    # From the left top on, so that what replaces one node for one finds its place before chains grow.
    order = sorted(made, key=lambda old: (len(made[old]) > 1, _pair(old.stored.get("pos"), (0, 0))[::-1]))
    for old in order:
        at = _pair(old.stored.get("pos"), (0, 0))
        own = [frame for frame in frames if _box(at, (1, 1)).within(frame)]
        others = [frame for frame in frames if frame not in own]
        for node in made[old]:
            size = list(LAYOUTS[node.type].size)
            if len(made[old]) == 1:
                size = [max(a, b) for a, b in zip(size, _pair(old.stored.get("size"), (0, 0)), strict=True)]
                size[1] = LAYOUTS[node.type].size[1] if node.type != "EasyAnimateV3TextEncode" else size[1]
            position = _free(at, size, taken, others, own)
            node.stored["pos"], node.stored["size"] = list(position), size
            taken.append(_box(position, size))


def _free(
    at: tuple[float, float], size: list[float], taken: list[Box], others: list[Box], own: list[Box]
) -> tuple[float, float]:
    """Return the free position nearest to ``at``, to the right of it or below."""
    blocks = taken + others + own
    columns = {at[0]} | {box.right + _GAP for box in blocks if box.right + _GAP > at[0]}
    rows = {at[1]} | {box.bottom + _GAP + _TITLE for box in blocks if box.bottom + _GAP + _TITLE > at[1]}
    far = max((box.right for box in blocks), default=at[0]) + _GAP
    free = [(x, y) for x, y in product(columns, rows) if _fits(_box((x, y), size), taken, others, own)]
    return min(free, key=lambda spot: (2 * (spot[0] - at[0]) + spot[1] - at[1], spot), default=(far, at[1]))


def _fits(box: Box, taken: list[Box], others: list[Box], own: list[Box]) -> bool:
    if any(box.meets(other) for other in taken + others):
        return False
    return all(box.within(frame) or not box.meets(frame) for frame in own)


def _box(position: tuple[float, float], size: Iterable[float]) -> Box:
    x, y = position
    width, height = size
    return Box(x, y - _TITLE, x + width, y + height)


def _frame(group: Mapping[str, Any]) -> Box:
    bounding = group.get("bounding")
    x, y = _pair(bounding, (0, 0))
    width, height = _pair(bounding[2:] if isinstance(bounding, list) else None, (0, 0))
    return Box(x, y, x + width, y + height)


def _pair(value: Any, default: tuple[float, float]) -> tuple[float, float]:
    """Return two numbers that the file has as a list or, in older ones, as an object."""
    if isinstance(value, Mapping):
        value = [value.get("0"), value.get("1")]
    usable = isinstance(value, list) and len(value) >= 2 and all(map(_is_coordinate, value[:2]))
    return (value[0], value[1]) if usable else default


def _is_coordinate(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _FAR_AWAY
