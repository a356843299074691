"""The journal of a video under construction: which parts are finished, and with which inputs.

The file is a JSON array with one record a line: a header, one record for each finished part and, once the parts
are joined, a last one that describes the joined file. Each line has a checksum over its record and the line
before, so that the records in front of any damage can still be trusted.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from .errors import DamagedJournalError, JournalVersionError

VERSION = 1
_WAY_OUT = "delete the folder, or set if_unfinished to start new"


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class PartRecord:
    """A finished part.

    Attributes
    ----------
    spec : dict
        The inputs that made it.
    frames : int
        Number of its frames.
    width, height : int
        Size in pixels.
    padded : tuple of bool
        Whether the last column and row were repeated to make an odd side even.
    file : FileRecord
        The mp4 file.
    tail : FileRecord or None
        The file of its last frames, if these were kept.
    """

    spec: dict[str, Any]
    frames: int
    width: int
    height: int
    padded: tuple[bool, bool]
    file: FileRecord
    tail: FileRecord | None


@dataclass(frozen=True)
class Journal:
    """What is known of a video under construction.

    Attributes
    ----------
    inputs : dict
        The inputs that hold for the whole video.
    fps : Fraction
        Exact frame rate.
    crf : int
        Quality.
    parts : tuple of PartRecord
        The finished parts, in order.
    joined : FileRecord or None
        The joined file, once it is complete.
    """

    inputs: dict[str, Any]
    fps: Fraction
    crf: int
    parts: tuple[PartRecord, ...] = field(default=())
    joined: FileRecord | None = None

    @property
    def frames(self) -> int:
        """Return the number of frames in the finished parts."""
        return sum(part.frames for part in self.parts)

    def with_part(self, part: PartRecord) -> "Journal":
        """Return the journal with one more part; a joined file is out of date then."""
        return replace(self, parts=(*self.parts, part), joined=None)

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        header = {
            "version": VERSION,
            "inputs": self.inputs,
            "fps": [self.fps.numerator, self.fps.denominator],
            "crf": self.crf,
        }
        records = [header, *({"part": i, **asdict(part)} for i, part in enumerate(self.parts))]
        if self.joined is not None:
            records.append({"joined": asdict(self.joined)})
        lines, before = [], ""
        for record in records:
            before = _checksum(before, record)
            lines.append(json.dumps({"sha256": before, "record": record}))
        return ("[\n" + ",\n".join(lines) + "\n]\n").encode()


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs as JSON gives them back, to compare them with recorded ones.

    Raises
    ------
    TypeError, ValueError
        If JSON cannot store a value.
    """
    return json.loads(json.dumps(dict(values), allow_nan=False))


def read_journal(path: Path) -> tuple[Journal, bytes, str | None]:
    """Read a journal as far as it can be trusted.

    Returns
    -------
    tuple of Journal, bytes and (str or None)
        The records before any damage, the file's content, and where the damage begins, in words.

    Raises
    ------
    DamagedJournalError
        If not even the header can be read.
    JournalVersionError
        If the version is another one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise DamagedJournalError(
            f"The journal {path} cannot be read ({reason}): check its permissions and the disk and run it again, or set "
            "if_unfinished to start new."
        ) from error
    records, damage = _trusted_records(data)
    version = records[0].get("version") if records else None
    if records and version != VERSION:
        raise JournalVersionError(
            f"The journal {path} has version {version!r} instead of {VERSION}: update EasyAnimateV3, or set "
            "if_unfinished to start new."
        )
    if not records:
        raise damaged_journal(path, damage or "it has no header")
    try:
        return _journal(records), data, damage
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise damaged_journal(path, f"a record lacks {error}") from error


def damaged_journal(path: Path, damage: str) -> DamagedJournalError:
    """Return the error for a journal that cannot be used; the words say what is wrong with it."""
    return DamagedJournalError(f"The journal {path} is damaged ({damage}): {_WAY_OUT}.")


def _checksum(before: str, record: Mapping[str, Any]) -> str:
    return hashlib.sha256((before + json.dumps(record, sort_keys=True)).encode()).hexdigest()


def _trusted_records(data: bytes) -> tuple[list[dict[str, Any]], str | None]:
    records: list[dict[str, Any]] = []
    lines = data.rstrip().split(b"\n")
    before = ""
    for number, line in enumerate(lines[1:], start=2):
        if line == b"]" and number == len(lines):
            return records, None
        record = _record(line.removesuffix(b","), before)
        if record is None:
            return records, f"line {number} is unreadable"
        before = _checksum(before, record)
        records.append(record)
    return records, f"it ends after line {len(lines)}"


def _record(line: bytes, before: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        record = entry["record"]
        trusted = isinstance(record, dict) and entry["sha256"] == _checksum(before, record)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if trusted else None


def _journal(records: list[dict[str, Any]]) -> Journal:
    header, *rest = records
    joined = None
    if rest and "joined" in rest[-1]:
        joined = FileRecord(**rest.pop()["joined"])
    return Journal(
        inputs=dict(header["inputs"]),
        fps=Fraction(*header["fps"]),
        crf=header["crf"],
        parts=tuple(_part(index, record) for index, record in enumerate(rest)),
        joined=joined,
    )


def _part(index: int, record: dict[str, Any]) -> PartRecord:
    if record["part"] != index:
        raise ValueError(f"part {index}")
    tail = record["tail"]
    return PartRecord(
        spec=dict(record["spec"]),
        frames=record["frames"],
        width=record["width"],
        height=record["height"],
        padded=tuple(record["padded"]),
        file=FileRecord(**record["file"]),
        tail=None if tail is None else FileRecord(**tail),
    )
