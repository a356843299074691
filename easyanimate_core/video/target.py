"""The file that is to be written: checks before the work, and the move onto its name after it."""

from pathlib import Path

from .errors import VideoWriteError


def already_exists(path: Path) -> VideoWriteError:
    """Return the error for a file that is there already."""
    return VideoWriteError(f"{path} exists already: choose another name, or allow it to be overwritten.")


def check_target(path: Path, overwrite: bool) -> None:
    """Check that an mp4 file may be written under a name.

    Raises
    ------
    VideoWriteError
        If the ending is another one, the folder is missing or the name is taken.
    """
    if path.suffix.lower() != ".mp4":
        raise VideoWriteError(f"{path} does not end in .mp4: give it that ending.")
    if not path.parent.is_dir():
        raise VideoWriteError(f"There is no folder {path.parent}: create it, or choose another one.")
    if path.is_dir():
        raise VideoWriteError(f"{path} is a folder: choose another file name.")
    if path.exists() and not overwrite:
        raise already_exists(path)


def move_onto(partial: Path, path: Path, overwrite: bool) -> None:
    """Give the complete file its name.

    Raises
    ------
    VideoWriteError
        If a file of that name appeared meanwhile, or the old one cannot be replaced.
    """
    if path.exists() and not overwrite:
        raise already_exists(path)
    try:
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise VideoWriteError(
            f"{path} cannot be replaced ({reason}): close the programs that show it."
        ) from error
