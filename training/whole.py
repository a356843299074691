"""Files that are written whole or not at all: aside first, then moved into place."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Writers of tensors tell of a full disk in words of their own.
_DISK_SIGNS = ("PytorchStreamWriter", "inline_container", "iostream", "I/O error", "os error")


class SaveError(ValueError):
    """A file cannot be written: the message says why and what to do, in one sentence."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; at the end of the block it becomes the file, which keeps its old content until then.

    What a killed run left aside is overwritten by the next one.

    Raises
    ------
    SaveError
        If the disk does not take the file.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except Exception as error:
        if not isinstance(error, OSError) and not any(sign in str(error) for sign in _DISK_SIGNS):
            raise
        reason = getattr(error, "strerror", None) or "the disk is full or refuses it"
        raise SaveError(
            f"{path} cannot be written ({reason}): free some space or allow it, and run the same command again."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
