"""The captions of a folder of videos, in the three layouts that are common.

- ``NAME.txt`` beside ``NAME.mp4``;
- ``metadata.csv`` with the columns ``file_name`` and ``text`` (Hugging Face's VideoFolder);
- ``metadata.json``, a list of objects with ``file_path`` and ``text`` (EasyAnimate's own training).

Paths in the last two are relative to the folder; a text file beside a video wins over both.
"""

import csv
import io
import json
from pathlib import Path
from typing import Any

from .clips import ClipError

_TABLES = {"metadata.csv": "file_name", "metadata.json": "file_path"}


def read_captions(folder: Path, videos: list[Path]) -> dict[Path, str]:
    """Return the caption of each video.

    Parameters
    ----------
    folder : Path
        Where a table may lie.
    videos : list of Path
        Files in the folder or below it.

    Raises
    ------
    ClipError
        If a video has none, or a table cannot be read.
    """
    table = _read_table(folder)
    captions = {}
    for video in videos:
        beside = video.with_suffix(".txt")
        text = _read_text(beside) if beside.is_file() else table.get(video.resolve(), "")
        if not text.strip():
            raise ClipError(
                f"{video} has no caption: write what it shows into {beside.name} beside it, or into {folder / 'metadata.csv'}."
            )
        captions[video] = " ".join(text.split())
    return captions


def _read_table(folder: Path) -> dict[Path, str]:
    """Return the captions of the folder's table, by the file's full path."""
    for name, column in _TABLES.items():
        path = folder / name
        if not path.is_file():
            continue
        text = _read_text(path)
        try:
            rows = json.loads(text) if path.suffix == ".json" else list(csv.DictReader(io.StringIO(text)))
            return {(folder / row[column]).resolve(): _plain(row["text"]) for row in rows}
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise ClipError(
                f"{path} is no table of captions ({type(error).__name__}: {error}): each row needs {column!r} and 'text'."
            ) from error
    return {}


def _read_text(path: Path) -> str:
    try:
        # Windows editors put a mark in front.
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ClipError(f"{path} cannot be read ({error}): save it as UTF-8 text.") from error


def _plain(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no text")
    return text
