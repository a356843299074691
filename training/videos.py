"""A folder of videos with captions as a source of training clips.

Videos are decoded once, resampled to one frame rate, and resized and cropped to the model's square; all frames of the
folder are then held in memory as bytes. :func:`prepare` stores them as ``.pt`` files, which are read where there is no
ffmpeg. Nano's own encoders read the result, so this trains models of nano's VAE and text encoder at any ``side`` that
their VAE divides; the published T5 and its tokenizer are not here.
"""

import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from .captions import read_captions
from .clips import ClipError
from .loop import save_whole

SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".gif")
PREPARED = ".pt"


@dataclass(frozen=True)
class Video:
    """A decoded video, or a part of one.

    Attributes
    ----------
    name : str
        Path relative to its folder.
    frames : torch.Tensor
        ``[frames, 3, side, side]``, uint8.
    text : str
        Its caption.
    """

    name: str
    frames: torch.Tensor
    text: str
    lead: ClassVar[int] = 0

    def render(self) -> torch.Tensor:
        """Return the frames in [0, 1] as float32."""
        return self.frames.float() / 255

    def caption(self) -> str:
        """Return the caption."""
        return self.text

    def partial_caption(self, rng: random.Random) -> str:
        """Return the whole caption: nothing tells which words could go."""
        return self.text


class VideoClips:
    """Clips cut at random from videos.

    Parameters
    ----------
    videos : sequence of Video
        From :func:`read_folder`.
    longest : int
        Most frames that are asked of a clip; no video may be shorter.

    Raises
    ------
    ClipError
        If there is no video, or one is too short.
    """

    def __init__(self, videos: Sequence[Video], longest: int) -> None:
        if not videos:
            raise ClipError("There are no videos to train on: give at least one.")
        for video in videos:
            if len(video.frames) < longest:
                raise ClipError(
                    f"{video.name} has {len(video.frames)} frames, but clips of {longest} are cut from it: "
                    "take it out, or raise the frame rate."
                )
        self.videos = list(videos)
        self.side: int = videos[0].frames.shape[-1]

    def draw(self, rng: random.Random, frames: int) -> Video:
        """Return ``frames`` neighbouring frames of one video."""
        video = rng.choice(self.videos)
        begin = rng.randint(0, len(video.frames) - frames)
        return Video(video.name, video.frames[begin : begin + frames], video.text)


def read_folder(folder: Path, side: int, fps: float = 24.0) -> list[Video]:
    """Read a folder of videos, or one that :func:`prepare` wrote.

    Parameters
    ----------
    folder : Path
        Folder with videos (``.mp4``, ``.webm``, ``.mov``, ``.mkv``, ``.gif``) in it or in folders below, and their
        captions (see :mod:`.captions`); needs the package imageio-ffmpeg. Or one with ``.pt`` files, which needs none.
    side : int
        Height and width of the frames in pixels: the transformer's ``sample_size`` times 8.
    fps : float
        Frames per second; other rates are brought to it by repeating or leaving out frames. Prepared ones have theirs.

    Raises
    ------
    ClipError
        If there are no videos, one has no caption or cannot be read, or prepared frames have another size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ClipError(f"There is no folder {folder}: give one with videos and their captions.")
    prepared = _files(folder, (PREPARED,))
    if prepared:
        return [_read_prepared(path, folder, side) for path in prepared]
    paths = _files(folder, SUFFIXES)
    if not paths:
        raise ClipError(f"{folder} has no videos: put {', '.join(SUFFIXES)} files there.")
    captions = read_captions(folder, paths)
    return [Video(_name(path, folder), decode(path, side, fps), captions[path]) for path in paths]


def prepare(folder: Path, target: Path, side: int, fps: float = 24.0) -> list[Path]:
    """Decode a folder of videos into ``.pt`` files, to train where nothing but torch is installed.

    Parameters
    ----------
    folder : Path
        Videos and captions.
    target : Path
        Folder that gets one file a video, which :func:`read_folder` reads.
    side, fps : int, float
        As for :func:`read_folder`.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ClipError
        As :func:`read_folder`.
    """
    written = []
    for video in read_folder(folder, side, fps):
        path = Path(target) / f"{video.name}{PREPARED}"
        save_whole(path, {"frames": video.frames, "caption": video.text})
        written.append(path)
    return written


def decode(path: Path, side: int, fps: float) -> torch.Tensor:
    """Return a video's frames ``[frames, 3, side, side]``, uint8: resampled, resized, and the middle cut out.

    Raises
    ------
    ClipError
        If ffmpeg is missing or gets no frame out of the file.
    """
    filters = (
        f"fps={fps},scale={side}:{side}:force_original_aspect_ratio=increase"
        f":flags=bicubic+accurate_rnd+full_chroma_int,crop={side}:{side}"
    )
    # Stops at the first error: what is left of a damaged file is not what its caption says.
    source = ["-nostdin", "-xerror", "-i", f"file:{path}", "-map", "0:v:0", "-vf", filters]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    done = subprocess.run([*_ffmpeg(), *source, *raw], capture_output=True, check=False)
    if done.returncode or not done.stdout:
        complaints = done.stderr.decode(errors="replace").strip().splitlines()
        reason = complaints[0].strip() if complaints else "it has no frames"
        raise ClipError(f"{path} cannot be read as a video ({reason}): take it out, or convert it to mp4.")
    frames = torch.frombuffer(bytearray(done.stdout), dtype=torch.uint8)
    return frames.view(-1, side, side, 3).permute(0, 3, 1, 2).contiguous()


def _ffmpeg() -> list[str]:
    # Imported here: reading prepared files needs neither ffmpeg nor the node pack's requirements.
    from easyanimate_core.video.errors import VideoWriteError
    from easyanimate_core.video.ffmpeg import ffmpeg

    try:
        return ffmpeg()
    except VideoWriteError as error:
        raise ClipError(str(error)) from error


def _read_prepared(path: Path, folder: Path, side: int) -> Video:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
        frames, text = content["frames"], content["caption"]
        fits = frames.dtype == torch.uint8 and frames.shape[1:] == (3, side, side)
    except Exception as error:
        raise ClipError(
            f"{path} is no prepared video ({type(error).__name__}): prepare the folder again."
        ) from error
    if not fits:
        raise ClipError(
            f"{path} has frames of {list(frames.shape[1:])}, but {[3, side, side]} is needed: prepare the folder again."
        )
    return Video(_name(path, folder).removesuffix(PREPARED), frames, text)


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files with these endings in a folder and below it, hidden ones left out, in the order of their names."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
    )


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
