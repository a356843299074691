"""What an mp4 file's own index says about its frames, read without decoding any."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from .errors import VideoWriteError
from .files import cannot_be_read

Span = tuple[int, int]


@dataclass(frozen=True)
class Mp4Index:
    """Facts about the video of an mp4 file.

    Attributes
    ----------
    frames : int
        Number of frames.
    width, height : int
        Size in pixels.
    rate : Fraction
        Exact frame rate.
    """

    frames: int
    width: int
    height: int
    rate: Fraction


def read_index(path: Path) -> Mp4Index:
    """Read the index of an mp4 file of one video track, all of whose frames last equally long.

    Raises
    ------
    VideoWriteError
        If the file is missing, cut off or no such mp4.
    """
    try:
        with path.open("rb") as file:
            return _index(file, path.stat().st_size)
    except OSError as error:
        raise cannot_be_read(path, error) from error
    except (struct.error, _NoSuchIndexError, ZeroDivisionError) as error:
        raise VideoWriteError(
            f"{path} is no complete mp4 file with evenly spaced frames in order."
        ) from error


def check_complete(path: Path, frames: int, name: Path) -> None:
    """Check that a video just written has all its frames, in whatever order; ``name`` is the one to tell.

    Raises
    ------
    VideoWriteError
        If frames are missing or the file is cut off.
    """
    try:
        with path.open("rb") as file:
            outer = dict(_boxes(file, (0, path.stat().st_size)))
            media = _inside(file, outer, "moov", "trak", "mdia", "minf", "stbl")
            found = _sample_count(file, dict(_boxes(file, media))) if "mdat" in outer else 0
    except OSError as error:
        raise cannot_be_read(name, error) from error
    except (struct.error, _NoSuchIndexError):
        found = 0
    if found != frames:
        raise VideoWriteError(
            f"ffmpeg wrote {found} of {frames} frames of {name} without a word of complaint: check free space and run "
            "it again."
        )


class _NoSuchIndexError(Exception):
    pass


def _index(file: BinaryIO, size: int) -> Mp4Index:
    # Walks over all boxes, so that a file that was cut off behind its index is noticed.
    outer = dict(_boxes(file, (0, size)))
    if "mdat" not in outer:
        raise _NoSuchIndexError("no media")
    track = _inside(file, outer, "moov", "trak")
    media = dict(_boxes(file, _inside(file, dict(_boxes(file, track)), "mdia")))
    table = dict(_boxes(file, _inside(file, media, "minf", "stbl")))
    ticks = _timescale(file, media)
    durations = _time_table(file, table)
    frames = _sample_count(file, table)
    # A `ctts` box says that frames are shown in another order than they are stored in.
    if "ctts" in table or len(durations) != 1 or durations[0][0] != frames:
        raise _NoSuchIndexError("uneven")
    width, height = _size(file, dict(_boxes(file, track)))
    return Mp4Index(frames, width, height, Fraction(ticks, durations[0][1]))


def _boxes(file: BinaryIO, span: Span) -> Iterator[tuple[str, Span]]:
    """Yield the kind of each box and where its content lies."""
    start, end = span
    while start < end:
        size, kind = struct.unpack(">I4s", _read(file, start, 8))
        head = 8
        if size == 1:
            (size,) = struct.unpack(">Q", _read(file, start + 8, 8))
            head = 16
        if size < head or start + size > end:
            raise _NoSuchIndexError("cut off")
        yield kind.decode("latin-1"), (start + head, start + size)
        start += size


def _inside(file: BinaryIO, boxes: dict[str, Span], *kinds: str) -> Span:
    for kind in kinds:
        if kind not in boxes:
            raise _NoSuchIndexError(kind)
        span = boxes[kind]
        boxes = dict(_boxes(file, span))
    return span


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


def _content(file: BinaryIO, boxes: dict[str, Span], kind: str) -> bytes:
    if kind not in boxes:
        raise _NoSuchIndexError(kind)
    start, end = boxes[kind]
    return _read(file, start, end - start)


def _timescale(file: BinaryIO, media: dict[str, Span]) -> int:
    content = _content(file, media, "mdhd")
    return struct.unpack_from(">I", content, 20 if content[:1] == b"\1" else 12)[0]


def _size(file: BinaryIO, track: dict[str, Span]) -> tuple[int, int]:
    width, height = struct.unpack(">II", _content(file, track, "tkhd")[-8:])
    return width >> 16, height >> 16


def _time_table(file: BinaryIO, table: dict[str, Span]) -> list[tuple[int, int]]:
    """Return runs of frames as their number and the ticks that each of them lasts."""
    content = _content(file, table, "stts")
    (count,) = struct.unpack_from(">I", content, 4)
    return [struct.unpack_from(">II", content, 8 + 8 * index) for index in range(min(count, 2))]


def _sample_count(file: BinaryIO, table: dict[str, Span]) -> int:
    return struct.unpack_from(">I", _content(file, table, "stsz"), 8)[0]
