"""Files that survive a crash: written aside, flushed to the disk, moved into place."""

import errno
import hashlib
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import VideoWriteError

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# ERROR_HANDLE_DISK_FULL and ERROR_DISK_FULL.
_FULL_ON_WINDOWS = {39, 112}
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\..+", re.DOTALL)
# Endings of what a video is written with beside it.
PARTIAL, TAGS = "part.mp4", "tags.txt"
_LEFT_OVER = re.compile(rf"\.[0-9a-f]{{32}}\.({re.escape(PARTIAL)}|{re.escape(TAGS)})")
# A file that is being written changes every few seconds.
_LEFT_OVER_SECONDS = 3600
_CHUNK = 1 << 20


def temporary(path: Path, ending: str) -> Path:
    """Return a hidden, unused name next to a file, which `is_temporary` recognises."""
    return path.with_name(f".{uuid.uuid4().hex}.{ending}")


def is_temporary(name: str) -> bool:
    """Tell whether a name was made by `temporary`."""
    return _TEMPORARY.fullmatch(name) is not None


def disk_full(place: Path) -> VideoWriteError:
    """Return the error that says that the disk is full."""
    return VideoWriteError(f"The disk is full at {place}: free some space there and run it again.")


def is_disk_full(error: OSError) -> bool:
    """Tell whether the system refused for want of space."""
    return error.errno in _FULL or getattr(error, "winerror", None) in _FULL_ON_WINDOWS


def remove_left_over(fresh: Path) -> None:
    """Remove what killed runs left of videos in a folder an hour ago or more, by the clock that a new file there shows."""
    with suppress(OSError):
        now = fresh.stat().st_mtime
        for path in fresh.parent.iterdir():
            # Another run may remove it at this moment.
            with suppress(FileNotFoundError):
                if _LEFT_OVER.fullmatch(path.name) and now - path.lstat().st_mtime > _LEFT_OVER_SECONDS:
                    remove_quietly(path)


@contextmanager
def plain_errors(folder: Path) -> Iterator[None]:
    """Turn the system's errors about writing in a folder into `VideoWriteError`."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(folder) from error
        reason = error.strerror or error
        if error.errno == errno.ENAMETOOLONG:
            raise VideoWriteError(
                f"The name is too long for {folder} ({reason}): choose a shorter one."
            ) from error
        raise VideoWriteError(
            f"The folder {folder} cannot be written to ({reason}): choose another folder or allow it."
        ) from error


def sync_file(path: Path) -> None:
    """Flush a file's bytes from the system's cache to the disk."""
    # Opened for writing, since Windows flushes no other handle.
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's names to the disk where the system can do so; Windows cannot."""
    if sys.platform == "win32":
        return
    # Some network drives refuse; by then the file is in place, so that no error may say otherwise.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def place(source: Path, target: Path) -> None:
    """Flush a finished file and give it its name, in place of a file of that name."""
    sync_file(source)
    source.replace(target)
    sync_folder(target.parent)


def place_new(source: Path, target: Path) -> None:
    """Give a flushed file a name that no other file has.

    Raises
    ------
    FileExistsError
        If there is a file of that name, which is kept.
    """
    if sys.platform == "win32":
        source.rename(target)
        return
    try:
        # Unlike a rename, a link never replaces a file.
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        # Drives without links: a file that appears between these two lines is lost.
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        source.rename(target)
    else:
        remove_quietly(source)
    sync_folder(target.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Write a small file such that it has its old or its new content at any moment, also after a power cut."""
    partial = temporary(path, "new")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        remove_quietly(partial)
    sync_folder(path.parent)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as a hexadecimal text."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def is_file_with(path: Path, size: int, sha256: str) -> bool:
    """Tell whether a file is there and has these bytes.

    Raises
    ------
    VideoWriteError
        If it is there and cannot be read, which says nothing about its bytes.
    """
    try:
        return path.stat().st_size == size and sha256_of(path) == sha256
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise cannot_be_read(path, error) from error


def cannot_be_read(path: Path, error: OSError) -> VideoWriteError:
    """Return the error for a file that the system does not give, for now."""
    reason = error.strerror or error
    return VideoWriteError(
        f"{path} cannot be read ({reason}): check its permissions and the disk, and run it again."
    )


def remove_quietly(path: Path) -> None:
    """Remove a file, or a temporary folder with all in it, if the system lets us."""
    with suppress(OSError):
        if is_temporary(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
