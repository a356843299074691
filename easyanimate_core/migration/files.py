"""Reading a workflow file, and writing the new one whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from .errors import MigrationError

SUFFIX = "_easyanimatev3"


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


def output_path(source: Path) -> Path:
    """Return the default name of the converted file."""
    return source.with_name(f"{source.stem}{SUFFIX}.json")


def refuse_existing(path: Path) -> None:
    """Refuse to write over a file.

    Raises
    ------
    MigrationError
        If there is one.
    """
    if os.path.lexists(path):
        raise MigrationError(f"{path} exists already; --force writes over it, -o chooses another file.")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; what stood there before stays until the new one is complete.

    Raises
    ------
    MigrationError
        If it cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            encoding="utf-8",
            errors="surrogatepass",
            newline="\n",
            dir=path.parent,
            suffix=".tmp",
            delete=False,
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise MigrationError(f"{path} cannot be written ({error.strerror}).") from error
