"""Joining mp4 files of one kind without encoding their frames again."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from .errors import VideoWriteError
from .ffmpeg import ffmpeg, metadata_input, metadata_text, mp4_output, run_ffmpeg
from .files import plain_errors, sync_file, sync_folder, temporary
from .frame_rate import timescale
from .mp4_index import Mp4Index, read_index
from .target import check_target, move_onto
from .writer import WrittenVideo

_MICROSECONDS = 1_000_000


def join_mp4(
    parts: Sequence[str | Path],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
    check: Callable[[], None] | None = None,
) -> WrittenVideo:
    """Join mp4 files into one; its frames are those of the parts, bit for bit.

    The frames follow each other evenly, also from one part to the next. Tags of the parts are dropped. The
    file appears under its name only when it is complete and flushed to the disk. Until then everything lies in
    a hidden folder next to it, which no error leaves behind.

    Parameters
    ----------
    parts : sequence of str or Path
        Files that `write_mp4` wrote with ``joinable``, at one size and frame rate, in order.
    path : str or Path
        The file, in an existing folder.
    metadata : Mapping of str to str, optional
        Tags of the container, as in `write_mp4`.
    overwrite : bool
        Replace an existing file.
    check : callable, optional
        Is called all the time, and stops the work by raising, as for a cancel.

    Returns
    -------
    WrittenVideo
        Path, number of frames, size and rate of the file; nothing is padded here.

    Raises
    ------
    VideoWriteError
        If there are no parts, one is missing or does not fit the others, the file exists, the disk is full or
        frames would be lost.
    """
    path = Path(path).absolute()
    parts = [Path(part).absolute() for part in parts]
    tags = metadata_text(metadata) if metadata else None
    check_target(path, overwrite)
    indices = _fitting(parts)
    first, count = indices[0], sum(index.frames for index in indices)

    side = temporary(path, "join")
    with plain_errors(path.parent):
        side.mkdir()
    try:
        list_file, tag_file, joined = side / "list.txt", side / "tags.txt", side / "joined.mp4"
        with plain_errors(path.parent):
            list_file.write_bytes(_list(parts, indices))
            if tags is not None:
                tag_file.write_bytes(tags)
        command = _command(list_file, tag_file if tags is not None else None, joined, first.rate)
        run_ffmpeg(command, path, joined, check=check)
        _check_joined(joined, first, count, path)
        with plain_errors(path.parent):
            sync_file(joined)
        move_onto(joined, [path], overwrite)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(side, ignore_errors=True)
    return WrittenVideo(path, count, first.width, first.height, first.rate, False, False)


def _fitting(parts: list[Path]) -> list[Mp4Index]:
    if not parts:
        raise VideoWriteError("There are no parts to join: give at least one.")
    indices = [read_index(part) for part in parts]
    first = indices[0]
    for part, index in zip(parts, indices, strict=True):
        if (index.width, index.height, index.rate) != (first.width, first.height, first.rate):
            raise VideoWriteError(
                f"{part} is {_kind(index)}, but {parts[0]} is {_kind(first)}: join parts of one kind."
            )
    return indices


def _kind(index: Mp4Index) -> str:
    return f"{index.width}x{index.height} at {float(index.rate):.6g} frames per second"


def _list(parts: list[Path], indices: list[Mp4Index]) -> bytes:
    """Return the list of ffmpeg's concat demuxer.

    The demuxer adds up the parts' durations in microseconds; each is rounded here such that the sum stays
    exact, since the demuxer's own rounding moves frames after some dozens of parts.
    """
    entries = [b"ffconcat version 1.0\n"]
    frames, begin = 0, 0
    for part, index in zip(parts, indices, strict=True):
        frames += index.frames
        end = round(Fraction(frames * _MICROSECONDS) / index.rate)
        entries.append(_entry(part, end - begin))
        begin = end
    return b"".join(entries)


def _entry(part: Path, microseconds: int) -> bytes:
    """Return a part's lines in the list, with the time until the next one begins."""
    check_line(part)
    name = os.fsencode(part)
    seconds, rest = divmod(microseconds, _MICROSECONDS)
    quoted = name.replace(b"'", b"'\\''")
    return b"file 'file:" + quoted + b"'\n" + f"duration {seconds}.{rest:06}\n".encode()


def check_line(path: Path) -> None:
    """Check that a path can stand in a list of parts.

    Raises
    ------
    VideoWriteError
        If it has a line break.
    """
    if "\n" in str(path) or "\r" in str(path):
        raise VideoWriteError(f"The path {str(path)!r} has a line break: choose another folder.")


def _command(list_file: Path, tag_file: Path | None, joined: Path, rate: Fraction) -> list[str]:
    return [
        # A part that is a list of other files in disguise must lead nowhere.
        *(*ffmpeg(), "-format_whitelist", "concat,mov", "-protocol_whitelist", "file"),
        *("-f", "concat", "-safe", "0", "-i", f"file:{list_file}", *metadata_input(tag_file)),
        *("-c", "copy", "-video_track_timescale", str(timescale(rate)), *mp4_output(joined)),
    ]


def _check_joined(joined: Path, first: Mp4Index, count: int, path: Path) -> None:
    # ffmpeg says nothing of a part that vanishes while it reads.
    try:
        index = read_index(joined)
    except VideoWriteError as error:
        raise VideoWriteError(f"{path} was not joined into evenly spaced frames: run it again.") from error
    if index.frames != count or index.rate != first.rate:
        raise VideoWriteError(
            f"{path} was joined to {index.frames} frames at {float(index.rate):.6g} instead of {count} at "
            f"{float(first.rate):.6g}: run it again."
        )
