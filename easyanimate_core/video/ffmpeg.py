"""Running the ffmpeg that imageio-ffmpeg brings."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from .errors import VideoWriteError
from .feeding import fed
from .files import disk_full, plain_errors

# The system's words for ENOSPC and EDQUOT, as ffmpeg logs them on every system.
_FULL = ("No space left on device", "Disk quota exceeded", "Disc quota exceeded")


def ffmpeg() -> list[str]:
    """Return the start of a command line.

    Raises
    ------
    VideoWriteError
        If ffmpeg was not found.
    """
    # Imported here, so that the pack loads fast and without it.
    try:
        import imageio_ffmpeg

        executable = imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError, OSError) as error:
        raise VideoWriteError(
            "ffmpeg was not found: install it with `pip install imageio-ffmpeg`."
        ) from error
    return [executable, "-hide_banner", "-nostats", "-loglevel", "error", "-y"]


def mp4_output(partial: Path) -> list[str]:
    """Return the arguments for a file with free tags in its header, which lies in front."""
    # In front, since ComfyUI's page looks for the tags in the first 64 MB only.
    return ["-movflags", "use_metadata_tags+faststart", "-f", "mp4", f"file:{partial}"]


def metadata_text(metadata: Mapping[str, str]) -> bytes:
    """Return the tags in ffmpeg's metadata file format, where six characters are escaped.

    Raises
    ------
    VideoWriteError
        If a tag is not text that UTF-8 can store.
    """

    def escape(text: str) -> str:
        return re.sub(r"([=;#\\\n\r])", r"\\\1", text)

    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str) or not key or "\0" in key + value:
            raise VideoWriteError(f"The metadata {key!r} is not plain text: store it as a JSON string.")
    try:
        lines = [f"{escape(key)}={escape(value)}\n" for key, value in metadata.items()]
        return "".join([";FFMETADATA1\n", *lines]).encode()
    except UnicodeEncodeError as error:
        raise VideoWriteError(
            f"The metadata cannot be stored as UTF-8 ({error.reason}): escape it as JSON."
        ) from error


def metadata_input(tag_file: Path | None) -> list[str]:
    """Return the arguments that take the tags from a file, as the second input; without one there are none."""
    if tag_file is None:
        return ["-map", "0:v:0", "-map_metadata", "-1"]
    return ["-f", "ffmetadata", "-i", f"file:{tag_file}", "-map", "0:v:0", "-map_metadata", "1"]


def run_ffmpeg(
    command: list[str],
    path: Path,
    output: Path,
    frames: Iterable[np.ndarray] = (),
    check: Callable[[], None] | None = None,
) -> int:
    """Run ffmpeg on frames and return their number; it is dead when this returns or raises.

    Parameters
    ----------
    command : list of str
        The whole command line.
    path : Path
        The file that is to come of it, for messages.
    output : Path
        The file that ffmpeg writes; while it changes, ffmpeg is at work.
    frames : iterable of numpy.ndarray
        uint8 ``[H, W, 3]`` contiguous frames for its standard input.
    check : callable, optional
        Is called all the time, and ends ffmpeg by raising, as for a cancel.

    Raises
    ------
    VideoWriteError
        If ffmpeg does not start, stands still or fails; its first line of complaint is told.
    """
    hidden = subprocess.CREATE_NO_WINDOW if sys.platform == "win32" else 0
    with _log_file() as log:
        try:
            # Without a buffer of its own, whose lock would outlive a writer that hangs.
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                creationflags=hidden,
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise VideoWriteError(f"ffmpeg at {command[0]} does not start ({reason}).") from error
        with fed(process, path, output, check) as feed:
            count = feed.all_of(frames)
        log.seek(0)
        complaints = log.read().decode(errors="replace")
    # Older versions (4.2) exit without an error after the disk was full.
    if any(words in complaints for words in _FULL):
        raise disk_full(path.parent)
    if process.returncode < 0:
        raise VideoWriteError(
            f"ffmpeg was ended from outside (signal {-process.returncode}) before {path} was complete, which happens "
            "where memory is short: close other programs and run it again."
        )
    if process.returncode or feed.refused:
        lines = complaints.strip().splitlines()
        reason = lines[0].strip() if lines else f"exit code {process.returncode}"
        raise VideoWriteError(f"ffmpeg could not write {path} ({reason}): check free space and the settings.")
    return count


def _log_file() -> IO[bytes]:
    with plain_errors(Path(tempfile.gettempdir())):
        return tempfile.TemporaryFile()
