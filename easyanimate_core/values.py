"""Values that come from a stranger's file: JSON without end is refused, and numbers are checked before anything is built."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import CheckpointError

# A configuration has a few thousand characters; JSON grows to about twenty times its length in memory.
MAX_CONFIG_BYTES = 2**20
# Far above any width or number of layers, low enough for products of two.
MAX_NUMBER = 2**20

_MAX_DEPTH = 50
_MAX_SHOWN = 60
# One at a time: a pattern for text in quotes takes memory for its length, and hours where its end is missing.
_MARKS = re.compile(r'\\.|["\[{\]}]', re.DOTALL)
_NOTHING = object()


def shown(value: Any) -> str:
    """Return a stranger's value in one line that is short enough for an error."""
    if isinstance(value, int) and abs(value) > 10**_MAX_SHOWN:
        return "a very long number"
    text = repr(value[:_MAX_SHOWN] if isinstance(value, (str, bytes, list)) else value)
    # Its own sentences would look like ours.
    text = re.sub(r"([.!?])\s+", r"\1", text)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def json_object(text: str | bytes, source: str | Path) -> dict[str, Any]:
    """Return the object that a configuration's JSON holds.

    Parameters
    ----------
    text : str or bytes
        The JSON; bytes are UTF-8, with or without a byte order mark.
    source : str or Path
        Where it is from, for errors.

    Raises
    ------
    CheckpointError
        If it is not JSON, not an object, or nested deeper than any configuration.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        if _depth(text) > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise _no_json(source, f"line {error.lineno}, column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise _no_json(source, f"byte {error.start} is no UTF-8") from error
    except (ValueError, RecursionError, MemoryError) as error:
        # A number of thousands of digits raises a bare ValueError of Python's.
        reason = str(error) if str(error).startswith("it is") else "it holds an impossible value"
        raise _no_json(source, reason) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{source} holds a JSON {type(content).__name__} where an object is needed: download it again."
        )
    return content


def _no_json(source: str | Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{source} is not valid JSON ({reason}): download it again.")


def _depth(text: str) -> int:
    """Return how deep brackets are nested outside of text in quotes, or the first depth that is too much."""
    deepest = depth = 0
    quoted = False
    for match in _MARKS.finditer(text):
        mark = match[0]
        if mark == '"':
            quoted = not quoted
        elif not quoted and mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > _MAX_DEPTH:
                break
        elif not quoted and mark in "]}":
            depth -= 1
    return deepest


class ConfigValues:
    """The values of a configuration, each checked for its type and range as it is read.

    Parameters
    ----------
    values : mapping
        The parsed JSON.
    source : str
        What the file is, for errors: ``"transformer/config.json"``.

    Raises
    ------
    CheckpointError
        From every method that reads a value, where the value is missing or another one than is asked for.
    """

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self._values = values
        self._source = source

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        """Return a whole number from ``least`` to ``MAX_NUMBER``; missing values take the default, if there is one."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_NUMBER:
            raise self.wrong(key, value, f"a whole number from {least} to {MAX_NUMBER}")
        return value

    def number(self, key: str, default: float) -> float:
        """Return a finite number above 0."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(key, value, "a number above 0")
        if not 0 < value <= MAX_NUMBER or not math.isfinite(value):
            raise self.wrong(key, value, "a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def one_of(self, key: str, default: str, allowed: tuple[str, ...]) -> str:
        """Return one of some words."""
        value = self.get(key, default)
        if not isinstance(value, str) or value not in allowed:
            raise self.wrong(key, value, " or ".join(map(repr, allowed)))
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value as it is; without a default it must be there.

        Raises
        ------
        CheckpointError
            If it is missing.
        """
        value = self._values.get(key, _NOTHING)
        if value is not _NOTHING:
            return value
        if default is None:
            raise CheckpointError(f"{self._source} has no {key!r}; take the file of the release.")
        return default

    def wrong(self, key: str, value: Any, needed: str) -> CheckpointError:
        """Return the error for a value that is something else than what is needed."""
        return CheckpointError(
            f"{self._source} has {key} = {shown(value)}, but {needed} is needed; take the file of the release."
        )
