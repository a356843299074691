"""Reading a workflow file and writing the new one."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .report import MigrationError


def read_json(path: Path) -> Any:
    """Return a JSON file's content.

    Raises
    ------
    MigrationError
        If it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise MigrationError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise MigrationError(f"{path} is not JSON, so it is no workflow file.") from error


def write_json(path: Path, content: Any, overwrite: bool) -> None:
    """Write a JSON file whole or not at all, over another one only if told so.

    Raises
    ------
    MigrationError
        If there is one already, or it cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    data = text.encode("utf-8", "surrogatepass")
    try:
        if overwrite:
            _replace(path.resolve(), data)
        else:
            _create(path, data)
    except FileExistsError as error:
        raise MigrationError(
            f"{path} exists already; --force writes over it, -o chooses another file."
        ) from error
    except OSError as error:
        raise MigrationError(
            f"{path} cannot be written ({error.strerror}): free or allow that place, or choose another one with -o."
        ) from error


def _replace(path: Path, data: bytes) -> None:
    if path.exists() and not path.is_file():
        # A terminal or a pipe is written to, not replaced.
        path.write_bytes(data)
        return
    with _written_aside(path, data) as aside:
        if path.exists():
            shutil.copymode(path, aside)
        aside.replace(path)


def _create(path: Path, data: bytes) -> None:
    if path.exists() or path.is_symlink():
        raise FileExistsError(path)
    with _written_aside(path, data) as aside:
        try:
            # Unlike a rename, a link never replaces a file.
            path.hardlink_to(aside)
        except FileExistsError:
            raise
        except OSError:
            # Drives without links.
            if path.exists():
                raise FileExistsError(path) from None
            aside.rename(path)


@contextmanager
def _written_aside(path: Path, data: bytes) -> Iterator[Path]:
    """Give a file with these bytes beside a path; what is left of it goes at the end."""
    aside = path.with_name(f".{uuid.uuid4().hex}.new")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
