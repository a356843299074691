"""Reading a workflow file and writing the new one."""

import json
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
    """Write a JSON file, over another one only if told so.

    Raises
    ------
    MigrationError
        If there is one already, or it cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    data = text.encode("utf-8", "surrogatepass")
    try:
        with path.open("wb" if overwrite else "xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise MigrationError(
            f"{path} exists already; --force writes over it, -o chooses another file."
        ) from error
    except OSError as error:
        raise MigrationError(f"{path} cannot be written ({error.strerror}).") from error
