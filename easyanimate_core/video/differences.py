"""How recorded inputs differ from those given now, in words."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 3
_LONGEST = 60
_CONTEXT = 20


def differences(
    inputs: Mapping[str, Any],
    given: Mapping[str, Any],
    specs: Sequence[Mapping[str, Any]],
    planned: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return what differs, such as ``steps was 25, now 30`` and ``segment 2: prompt was 'a', now 'b'``.

    Parameters
    ----------
    inputs, given : Mapping
        The whole video's inputs, as recorded and as given now.
    specs, planned : sequence of Mapping
        The same of each part, which a ``name`` among them calls otherwise than by its number; more may be planned
        than are recorded.
    """
    found = list(_pairs(inputs, given))
    for index, spec in enumerate(specs):
        if index >= len(planned):
            found.append(f"{_name(spec, index)} is finished, now there are {len(planned)}")
            break
        found += [f"{_name(spec, index)}: {text}" for text in _pairs(spec, planned[index])]
    return found


def _name(spec: Mapping[str, Any], index: int) -> str:
    return str(spec.get("name", f"segment {index + 1}"))


def in_words(found: Sequence[str]) -> str:
    """Join the first three differences and say how many more there are."""
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "; ".join([*found[:_SHOWN], *more])


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new:
            found.append(f"{name} was {_cut(old[name], 0)}, now it is not given")
        elif name not in old:
            found.append(f"{name} was not given, now {_cut(new[name], 0)}")
        elif old[name] != new[name]:
            start = _first_difference(old[name], new[name])
            found.append(f"{name} was {_cut(old[name], start)}, now {_cut(new[name], start)}")
    return found


def _first_difference(old: Any, new: Any) -> int:
    """Return how many characters to leave out so that the difference between two long texts is shown."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return 0
    if max(len(old), len(new)) <= _LONGEST:
        return 0
    equal = next(
        (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
    )
    return max(0, equal - _CONTEXT)


def _cut(value: Any, start: int) -> str:
    if isinstance(value, str):
        text = value[start : start + _LONGEST]
        front = "…" if start else ""
        back = "…" if start + _LONGEST < len(value) else ""
        return repr(front + text + back)
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
