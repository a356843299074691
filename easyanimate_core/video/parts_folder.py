"""The folder in which a video is under construction: its file names, and its cleaning."""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .files import is_temporary, remove_quietly
from .lock import is_locked

ENDING = ".parts"
JOURNAL = "journal.json"
JOINED = "joined.mp4"
_PART = re.compile(r"part_(\d{5,})\.mp4")
_TAIL = re.compile(r"tail_(\d{5,})\.safetensors")
# What file managers put into every folder that somebody looks at.
_JUNK = {".DS_Store", "Thumbs.db", "desktop.ini"}
# An ffmpeg whose parent was killed lives for as long as it takes to write what it was given.
_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.1


def parts_folder(final: Path) -> Path:
    """Return the folder of a video's final file, which lies next to it."""
    return final.with_name(final.stem + ENDING)


def final_file(folder: Path) -> Path:
    """Return the final file of a folder of parts."""
    return folder.with_name(folder.name.removesuffix(ENDING) + ".mp4")


def part_file(folder: Path, index: int) -> Path:
    """Return the file of a part."""
    return folder / f"part_{index:05}.mp4"


def tail_file(folder: Path, index: int) -> Path:
    """Return the file of the last frames of a part."""
    return folder / f"tail_{index:05}.safetensors"


def unfinished_folders(folder: Path, name: str) -> list[Path]:
    """Return the folders ``NAME_*_.parts`` with a journal, newest journal first; the rest of crashes goes."""
    pattern = re.compile(re.escape(name) + r"_(\d+)_" + re.escape(ENDING))
    found = []
    for path in _entries(folder):
        match = pattern.fullmatch(path.name)
        if not match or path.is_symlink() or not path.is_dir():
            continue
        try:
            found.append(((path / JOURNAL).stat().st_mtime_ns, int(match[1]), path))
        except OSError:
            if holds_nothing(path) and not is_locked(path):
                remove_folder(path)
    return [path for *_, path in sorted(found, reverse=True)]


def holds_nothing(folder: Path) -> bool:
    """Tell whether a folder is there and has nothing but temporary files."""
    with suppress(OSError):
        return folder.is_dir() and all(is_temporary(path.name) for path in _entries(folder))
    return False


def has_part_after(folder: Path, index: int) -> bool:
    """Tell whether there is a part with a larger index."""
    return any(number > index for number, _ in _numbered(folder, _PART))


def clean_folder(folder: Path, parts: int, tails: set[int]) -> None:
    """Remove what a crash left: temporary files, parts from an index on and tails but the named ones."""
    for path in _entries(folder):
        if is_temporary(path.name) or path.name == JOINED:
            remove_quietly(path)
    for number, path in _numbered(folder, _PART):
        if number >= parts:
            remove_quietly(path)
    for number, path in _numbered(folder, _TAIL):
        if number not in tails:
            remove_quietly(path)


def remove_folder(folder: Path) -> bool:
    """Remove a folder of parts, the journal last; files that are not ours are kept, and the folder with them.

    Returns
    -------
    bool
        Whether the folder is gone.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        for path in _entries(folder):
            if path.name != JOURNAL and _is_ours(path.name):
                remove_quietly(path)
        left = [path.name for path in _entries(folder)]
        if not any(_is_ours(name) for name in left if name != JOURNAL):
            remove_quietly(folder / JOURNAL)
        with suppress(OSError):
            folder.rmdir()
        with suppress(OSError):
            if not folder.exists():
                return True
        # Only a program that still holds one of our files is worth waiting for.
        foreign = [name for name in left if not _is_ours(name)]
        if (foreign and len(foreign) == len(left)) or time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)


def _is_ours(name: str) -> bool:
    known = {JOURNAL, JOINED, *_JUNK}
    return name in known or is_temporary(name) or bool(_PART.fullmatch(name) or _TAIL.fullmatch(name))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _numbered(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[int, Path]]:
    for path in _entries(folder):
        if match := pattern.fullmatch(path.name):
            yield int(match[1]), path
