"""Writing of H.264 mp4 files through the ffmpeg that imageio-ffmpeg brings."""

import math
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

DEFAULT_CRF = 19
MAX_FPS = 1000
# How far a rounded NTSC rate such as 23.976 or 29.97 may lie from n / 1.001.
_NTSC_TOLERANCE = 5e-4
_RAW_INPUT = ("-f", "rawvideo", "-pix_fmt", "rgb24")
# The BT.601 matrix, and saying so: readers that ignore the tag assume it at these sizes, the rest obey it.
_COLOURS = (
    "scale=out_color_matrix=bt601:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int,format=yuv420p,"
    "setparams=colorspace=smpte170m:color_primaries=bt709:color_trc=bt709:range=tv"
)


class VideoWriteError(ValueError):
    """A video cannot be written: the message says why and what to do, in one sentence."""


@dataclass(frozen=True)
class WrittenVideo:
    """What `write_mp4` wrote.

    Attributes
    ----------
    path : Path
        The finished file.
    frames : int
        Number of frames.
    width, height : int
        Size in the file, in pixels; always even.
    fps : Fraction
        Exact frame rate.
    padded_right, padded_bottom : bool
        Whether the last column or row was repeated once to make an odd side even.
    """

    path: Path
    frames: int
    width: int
    height: int
    fps: Fraction
    padded_right: bool
    padded_bottom: bool


def write_mp4(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    *,
    crf: int = DEFAULT_CRF,
    preset: str = "medium",
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> WrittenVideo:
    """Write frames as an H.264 (yuv420p) mp4 file.

    Frames are passed on one by one, so memory does not grow with the length. The file appears under its name
    only when it is complete; after any failure, also a cancel inside ``frames``, nothing is left. H.264 stores
    colour for 2x2 pixels: an odd width or height is made even by repeating the last column or row.

    Parameters
    ----------
    path : str or Path
        The file, in an existing folder.
    frames : iterable of numpy.ndarray
        uint8 RGB frames ``[H, W, 3]``, or one array ``[F, H, W, 3]``; all of one size.
    fps : float or Fraction
        Frames per second, kept exactly; 23.976, 29.97, 59.94 and the like mean the NTSC rates n * 1000/1001.
    crf : int
        Quality, 1 (best) to 51; 0 is refused since few players show lossless H.264.
    preset : str
        x264's trade of speed for size, ``ultrafast`` to ``veryslow``.
    metadata : Mapping of str to str, optional
        Tags of the container. ComfyUI restores a graph from the JSON texts under ``workflow`` and ``prompt``.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    WrittenVideo
        Path, number of frames, size, rate and padding of the file.

    Raises
    ------
    VideoWriteError
        If there are no frames, frames differ in size or are not uint8 RGB, a parameter is out of range, the
        file exists, or the folder or the encoder does not take the file.
    """
    path = Path(path).absolute()
    rate = _exact_rate(fps)
    if not isinstance(crf, int) or not 1 <= crf <= 51:
        raise VideoWriteError(f"crf is {crf}: choose a whole number from 1 (best) to 51.")
    tags = _metadata_text(metadata or {})
    _check_target(path, overwrite)

    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise VideoWriteError(f"There are no frames to write to {path}: connect at least one image.")
    first = _checked_frame(first, 0, None)
    height, width = first.shape[:2]
    padding = (height % 2, width % 2)

    partial = path.with_name(f".{uuid.uuid4().hex}.part.mp4")
    _create_empty(partial)
    try:
        # On the side, since a command line is limited to 32 KB on Windows.
        with tempfile.TemporaryDirectory(prefix="easyanimate-") as side_folder:
            tag_file = Path(side_folder) / "tags.txt"
            tag_file.write_bytes(tags)
            size = f"{width + padding[1]}x{height + padding[0]}"
            command = _command(partial, tag_file, size, rate, crf, preset)
            checked = _checked_frames(chain([first], stream), first.shape)
            count = _encode(command, (_even(frame, padding) for frame in checked), path)
        if path.exists() and not overwrite:
            raise _exists(path)
        _move(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return WrittenVideo(
        path, count, width + padding[1], height + padding[0], rate, bool(padding[1]), bool(padding[0])
    )


def _exact_rate(fps: float | Fraction) -> Fraction:
    if (
        isinstance(fps, bool)
        or not isinstance(fps, (int, float, Fraction, np.number))
        or not math.isfinite(fps)
    ):
        raise VideoWriteError(f"fps is {fps!r}: give a number of frames per second, such as 24.")
    if not 0 < fps <= MAX_FPS:
        raise VideoWriteError(f"fps is {fps}: choose a rate above 0 and up to {MAX_FPS}.")
    if isinstance(fps, Fraction):
        return fps
    nominal = round(float(fps) * 1.001)
    if float(fps) != int(fps) and nominal and abs(float(fps) - nominal / 1.001) < _NTSC_TOLERANCE:
        return Fraction(nominal * 1000, 1001)
    rate = Fraction(str(float(fps))).limit_denominator(100_000)
    if not rate:
        raise VideoWriteError(f"fps is {fps}: choose a rate of at least 0.001.")
    return rate


def _metadata_text(metadata: Mapping[str, str]) -> bytes:
    """Return the tags in ffmpeg's metadata file format, where six characters are escaped."""

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


def _exists(path: Path) -> VideoWriteError:
    return VideoWriteError(f"{path} exists already: choose another name, or allow it to be overwritten.")


def _check_target(path: Path, overwrite: bool) -> None:
    if path.suffix.lower() != ".mp4":
        raise VideoWriteError(f"{path} does not end in .mp4: give it that ending.")
    if not path.parent.is_dir():
        raise VideoWriteError(f"There is no folder {path.parent}: create it, or choose another one.")
    if path.is_dir():
        raise VideoWriteError(f"{path} is a folder: choose another file name.")
    if path.exists() and not overwrite:
        raise _exists(path)


def _create_empty(partial: Path) -> None:
    # Fails here, with the system's own reason, rather than after the first frames were made.
    try:
        partial.open("xb").close()
    except OSError as error:
        reason = error.strerror or error
        raise VideoWriteError(
            f"The folder {partial.parent} cannot be written to ({reason}): choose another folder or allow it."
        ) from error


def _move(partial: Path, path: Path) -> None:
    try:
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise VideoWriteError(
            f"{path} cannot be replaced ({reason}): close the programs that show it."
        ) from error


def _checked_frame(frame: np.ndarray, index: int, shape: tuple[int, ...] | None) -> np.ndarray:
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise VideoWriteError(
            f"Frame {index} is {frame.dtype} {list(frame.shape)}: uint8 [height, width, 3] is needed."
        )
    if shape is not None and frame.shape != shape:
        raise VideoWriteError(
            f"Frame {index} is {frame.shape[1]}x{frame.shape[0]}, but the first is {shape[1]}x{shape[0]}: "
            "give all frames one size."
        )
    return frame


def _checked_frames(frames: Iterable[np.ndarray], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for index, frame in enumerate(frames):
        yield _checked_frame(frame, index, shape)


def _even(frame: np.ndarray, padding: tuple[int, int]) -> np.ndarray:
    if any(padding):
        frame = np.pad(frame, ((0, padding[0]), (0, padding[1]), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)


def _ffmpeg() -> str:
    # Imported here, so that the pack loads fast and without it.
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError, OSError) as error:
        raise VideoWriteError(
            "ffmpeg was not found: install it with `pip install imageio-ffmpeg`."
        ) from error


def _command(partial: Path, tag_file: Path, size: str, rate: Fraction, crf: int, preset: str) -> list[str]:
    return [
        *(_ffmpeg(), "-hide_banner", "-nostats", "-loglevel", "error", "-y"),
        *(
            *_RAW_INPUT,
            "-video_size",
            size,
            "-framerate",
            f"{rate.numerator}/{rate.denominator}",
            "-i",
            "pipe:0",
        ),
        *("-f", "ffmetadata", "-i", f"file:{tag_file}", "-map", "0:v:0", "-map_metadata", "1"),
        *("-vf", _COLOURS, "-c:v", "libx264", "-preset", preset, "-crf", str(crf), "-pix_fmt", "yuv420p"),
        # The header goes first, since ComfyUI's page looks for the tags in the first 64 MB only.
        *("-movflags", "use_metadata_tags+faststart", "-f", "mp4", f"file:{partial}"),
    ]


def _encode(command: list[str], frames: Iterable[np.ndarray], path: Path) -> int:
    """Run ffmpeg on the frames and return their number; it is dead when this returns or raises."""
    hidden = subprocess.CREATE_NO_WINDOW if sys.platform == "win32" else 0
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, creationflags=hidden
            )
        except OSError as error:
            raise VideoWriteError(
                f"ffmpeg at {command[0]} does not start ({error.strerror or error})."
            ) from error
        count = 0
        try:
            for frame in frames:
                try:
                    process.stdin.write(frame.data)
                except OSError:
                    break
                count += 1
            _close_quietly(process.stdin)
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                _close_quietly(process.stdin)
                process.wait()
        if process.returncode:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            reason = lines[0].strip() if lines else f"exit code {process.returncode}"
            raise VideoWriteError(
                f"ffmpeg could not write {path} ({reason}): check free space and the settings."
            )
    return count


def _close_quietly(pipe: IO[bytes]) -> None:
    # A dead ffmpeg breaks the pipe; its exit code tells more.
    try:
        pipe.close()
    except OSError:
        return
