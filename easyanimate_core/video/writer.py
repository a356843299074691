"""Writing of H.264 mp4 files through the ffmpeg that imageio-ffmpeg brings."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np

from .errors import VideoWriteError
from .ffmpeg import ffmpeg, metadata_input, metadata_text, mp4_output, run_ffmpeg
from .files import PARTIAL, TAGS, plain_errors, remove_left_over, remove_quietly, sync_file, temporary
from .frame_rate import exact_rate, timescale
from .mp4_index import check_complete
from .target import first_free, move_onto

DEFAULT_CRF = 19
# The BT.601 matrix, and saying so: readers that ignore the tag assume it at these sizes, the rest obey it.
_COLOURS = (
    "scale=out_color_matrix=bt601:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int,format=yuv420p,"
    "setparams=colorspace=smpte170m:color_primaries=bt709:color_trc=bt709:range=tv"
)


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
    joinable: bool = False,
    instead: Iterable[Path] = (),
    check: Callable[[], None] | None = None,
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
    joinable : bool
        Leave out what `join_mp4` cannot join: B-frames, which make a file a little smaller.
    instead : iterable of Path
        Further names in the same folder, to take in turn where the file exists, also where it appears meanwhile.
    check : callable, optional
        Is called all the time, and stops the work by raising, as for a cancel.

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
    names = chain([Path(path).absolute()], instead)
    rate = exact_rate(fps)
    check_crf(crf)
    tags = metadata_text(metadata) if metadata else None
    path = first_free(names, overwrite)

    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise VideoWriteError(f"There are no frames to write to {path}: connect at least one image.")
    first = _checked_frame(first, 0, None)
    height, width = first.shape[:2]
    padding = (height % 2, width % 2)

    partial, tag_file = temporary(path, PARTIAL), temporary(path, TAGS)
    try:
        # Fails here, with the system's own reason, rather than after the first frames were made.
        with plain_errors(path.parent):
            partial.open("xb").close()
            remove_left_over(partial)
            # On the side, since a command line is limited to 32 KB on Windows.
            if tags is not None:
                tag_file.write_bytes(tags)
        size = f"{width + padding[1]}x{height + padding[0]}"
        command = _command(partial, tag_file if tags is not None else None, size, rate, crf, preset, joinable)
        checked = _checked_frames(chain([first], stream), first.shape)
        count = run_ffmpeg(command, path, partial, (_even(frame, padding) for frame in checked), check)
        check_complete(partial, count, path)
        with plain_errors(path.parent):
            sync_file(partial)
        path = move_onto(partial, chain([path], names), overwrite)
    finally:
        remove_quietly(tag_file)
        remove_quietly(partial)
    return WrittenVideo(
        path, count, width + padding[1], height + padding[0], rate, bool(padding[1]), bool(padding[0])
    )


def check_crf(crf: int) -> None:
    """Check the quality.

    Raises
    ------
    VideoWriteError
        If it is no whole number from 1 to 51.
    """
    if not isinstance(crf, int) or isinstance(crf, bool) or not 1 <= crf <= 51:
        raise VideoWriteError(f"crf is {crf}: choose a whole number from 1 (best) to 51.")


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


def _command(
    partial: Path,
    tag_file: Path | None,
    size: str,
    rate: Fraction,
    crf: int,
    preset: str,
    joinable: bool,
) -> list[str]:
    per_second = f"{rate.numerator}/{rate.denominator}"
    return [
        *ffmpeg(),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", size, "-framerate", per_second),
        *("-i", "pipe:0", *metadata_input(tag_file), "-vf", _COLOURS),
        *("-c:v", "libx264", "-preset", preset, "-crf", str(crf), "-pix_fmt", "yuv420p"),
        # B-frames are stored early by a time that depends on the part's length, which collides at a seam.
        *(("-bf", "0") if joinable else ()),
        # Said again, since ffmpeg takes 119.88 for 120 otherwise.
        *("-r", per_second, "-video_track_timescale", str(timescale(rate))),
        *mp4_output(partial),
    ]
