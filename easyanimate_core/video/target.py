"""The file that is to be written: checks before the work, and the move onto its name after it."""

import errno
from collections.abc import Iterable
from pathlib import Path

from .errors import NameTakenError, VideoWriteError
from .files import disk_full, is_disk_full, place_new, plain_errors

_BAD_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}


def already_exists(path: Path) -> NameTakenError:
    """Return the error for a file that is there already."""
    return NameTakenError(f"{path} exists already: choose another name, or allow it to be overwritten.")


def check_target(path: Path, overwrite: bool) -> None:
    """Check that an mp4 file may be written under a name.

    Raises
    ------
    NameTakenError
        If the name is taken.
    VideoWriteError
        If the ending is another one, the folder is missing or the system does not take such a name.
    """
    if path.suffix.lower() != ".mp4":
        raise VideoWriteError(f"{path} does not end in .mp4: give it that ending.")
    check_name(path)
    with plain_errors(path.parent):
        if not path.parent.is_dir():
            raise VideoWriteError(f"There is no folder {path.parent}: create it, or choose another one.")
        if path.is_dir():
            raise NameTakenError(f"{path} is a folder: choose another file name.")
        # A link that leads nowhere has the name too.
        if (path.exists() or path.is_symlink()) and not overwrite:
            raise already_exists(path)


def check_name(path: Path) -> None:
    """Check that the system takes a name, whether there is such a file or not.

    Raises
    ------
    VideoWriteError
        If it is too long, has a letter that the system cannot store, or its folder cannot be looked into.
    """
    with plain_errors(path.parent):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in _BAD_NAME:
                raise
            reason = getattr(error, "strerror", None) or error
            raise VideoWriteError(
                f"{str(path)!r} is no name that this system takes ({reason}): choose another one."
            ) from error


def first_free(names: Iterable[Path], overwrite: bool) -> Path:
    """Return the first name that may be written; an iterator goes on behind it.

    Raises
    ------
    VideoWriteError
        As `check_target`; where all names are taken, for the last one.
    """
    for path in names:
        try:
            check_target(path, overwrite)
        except NameTakenError as error:
            taken = error
        else:
            return path
    raise taken


def move_onto(partial: Path, names: Iterable[Path], overwrite: bool) -> Path:
    """Give the complete file the first name that no other file has, and return it.

    Parameters
    ----------
    partial : Path
        The file.
    names : iterable of Path
        Names in its folder, at least one.
    overwrite : bool
        Replace a file of the first name.

    Raises
    ------
    NameTakenError
        If other files have all the names.
    VideoWriteError
        If the system does not allow the move.
    """
    for path in names:
        if overwrite:
            _replace(partial, path)
            return path
        with plain_errors(path.parent):
            try:
                place_new(partial, path)
            except FileExistsError:
                continue
        return path
    raise already_exists(path)


def _replace(partial: Path, path: Path) -> None:
    try:
        partial.replace(path)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(path.parent) from error
        reason = error.strerror or error
        raise VideoWriteError(
            f"{path} cannot be replaced ({reason}): close the programs that show it."
        ) from error
