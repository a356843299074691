"""Where a ``filename_prefix`` leads: into the output folder, and onto no file that is there."""

import errno
import os
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import folder_paths

from ..easyanimate_core.video import disk_full, is_disk_full, parts_folder

# For a prefix that names a folder alone, or nothing.
_NAME = "EasyAnimateV3"
# Control characters, and halves of letters, which no disk stores.
_CATEGORIES = ("Cc", "Cs")
_NOT_ON_WINDOWS = set('<>:"|?*')
_TRIES = 100_000
# A file of somebody's with a number of a hundred digits must not name ours.
_LARGEST = 10**9
_SHOWN = 100


class SavePlace(NamedTuple):
    """Folder, name and first number of the files of a prefix, and the folder relative to the output folder."""

    folder: Path
    name: str
    number: int
    subfolder: str

    def files(self) -> Iterator[Path]:
        """Yield the names of the files to be, one number after the other; those of unfinished videos are left out."""
        for number in range(self.number, self.number + _TRIES):
            path = self.folder / f"{self.name}_{number:05}_.mp4"
            if not os.path.lexists(parts_folder(path)):
                yield path


def check_prefix(prefix: str | None) -> bool | str:
    """Return True, or in one sentence what is wrong with a prefix that is known before anything runs.

    For ``validate_inputs``, so that a name which cannot be used is told at once and not after the sampling.
    """
    try:
        if isinstance(prefix, str):
            _check_named(prefix, 0, 0)
    except ValueError as error:
        return str(error)
    return True


def save_place(prefix: str, width: int, height: int) -> SavePlace:
    """Return the place of the next file of a prefix; its folder is made.

    Raises
    ------
    ValueError
        If it leads outside the output folder, is no name of a file or its folder cannot be made.
    """
    # Before the host makes folders; and after it, since packs add words in percent signs to those of the host.
    prefix, output = _check_named(prefix, width, height)
    try:
        folder, name, number, subfolder, _ = folder_paths.get_save_image_path(prefix, output, width, height)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(Path(output)) from error
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(
                f"filename_prefix {_shown(prefix)} is too long for this disk: choose a shorter one."
            ) from error
        raise ValueError(
            f"{error.filename or output} is no folder to write to ({error.strerror}): choose another filename_prefix or allow it."
        ) from error
    except Exception as error:
        # The host has no class of its own for this; its message is four lines long.
        raise _outside(prefix, output) from error
    _check_inside(prefix, output, Path(folder), name)
    return SavePlace(Path(folder), name, number if number < _LARGEST else 1, subfolder)


def _check_named(prefix: str, width: int, height: int) -> tuple[str, str]:
    """Return a prefix that names a file inside the output folder, and that folder."""
    output = folder_paths.get_output_directory()
    prefix = _usable(prefix)
    normal = Path(os.path.normpath(_filled(prefix, width, height)))
    _check_inside(prefix, output, normal.parent, normal.name)
    return prefix, output


def _usable(prefix: str) -> str:
    """Return a prefix that names a file, and refuse what no name can have."""
    letters = os.path.splitdrive(prefix)[1]
    for letter in letters:
        if unicodedata.category(letter) in _CATEGORIES or (os.name == "nt" and letter in _NOT_ON_WINDOWS):
            raise ValueError(
                f"filename_prefix {_shown(prefix)} has a character that no file name can have ({letter!r}): take it out."
            )
    return str(Path(prefix, _NAME)) if os.path.normpath(prefix) == "." else prefix


def _filled(prefix: str, width: int, height: int) -> str:
    now = time.localtime()
    values = {"width": width, "height": height, "year": now.tm_year}
    names = ("month", "day", "hour", "minute", "second")
    values |= {name: f"{value:02}" for name, value in zip(names, now[1:6], strict=True)}
    for name, value in values.items():
        prefix = prefix.replace(f"%{name}%", str(value))
    return prefix


def _check_inside(prefix: str, output: str, folder: Path, name: str) -> None:
    root, place = Path(os.path.normpath(output)), Path(os.path.normpath(Path(output) / folder))
    if name == ".." or not place.is_relative_to(root):
        raise _outside(prefix, output)
    try:
        real = place.resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"filename_prefix {_shown(prefix)} leads round in a circle of links: choose another one."
        ) from error
    if not real.is_relative_to(root.resolve()):
        raise ValueError(
            f"filename_prefix {_shown(prefix)} leads through a link from the output folder {output} to {real}: give a "
            "path inside of it, or start ComfyUI with --output-directory."
        )


def _outside(prefix: str, output: str) -> ValueError:
    return ValueError(
        f"filename_prefix {_shown(prefix)} leads outside the output folder {output}: give a path inside of it."
    )


def _shown(prefix: str) -> str:
    return repr(prefix if len(prefix) <= _SHOWN else f"{prefix[:_SHOWN]}…")
