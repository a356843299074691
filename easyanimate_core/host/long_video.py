"""A video of any length, segment by segment to disk, that goes on where it stopped."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.model_management
import torch

from ..continuation import JoinSettings, Segment, continue_video
from ..video import BusyVideoError, LongVideo, NameTakenError, UnfinishedVideoError
from .continuation import ContinuationPlan, SegmentRenderer
from .fingerprint import frames_digest
from .images import eight_bit, fit_frames, rgb_frames
from .progress import drop_preview, sampling_progress_only

# Prompts that are encoded at a time: T5 need not change places with the transformer at each segment.
_PROMPTS_AHEAD = 16


def stop_if_cancelled() -> None:
    """Raise the host's error for a cancelled run where the user has cancelled it."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def resume_unfinished(
    folder: Path, name: str, inputs: Mapping[str, Any], parts: list[dict[str, Any]]
) -> LongVideo | None:
    """Return the unfinished video of a name that was made with these inputs, or None where none is unfinished.

    Other runs are kept out of it until it is closed; one that another run works on is not unfinished yet.

    Raises
    ------
    UnfinishedVideoError
        If there are some, but of other inputs or damaged: it says what is wrong with the latest.
    """
    errors = []
    for unfinished in LongVideo.unfinished(folder, name):
        try:
            return LongVideo.resume(unfinished, inputs, parts, alone=True)
        except BusyVideoError:
            logging.warning(
                "%s: another run makes this video now, so this one does not go on with it.", unfinished
            )
        except UnfinishedVideoError as error:
            if not LongVideo.discard_if_useless(unfinished):
                errors.append(error)
    if errors:
        raise errors[0]
    return None


def begin_new(finals: Iterable[Path], inputs: Mapping[str, Any], fps: float, crf: int) -> LongVideo:
    """Begin a video under the first of some names that nothing else has, and keep other runs out until it is closed.

    Raises
    ------
    VideoWriteError
        If the disk takes no files, or none of the names is free.
    """
    for final in finals:
        try:
            return LongVideo.create(final, inputs, fps, crf, alone=True)
        except NameTakenError as error:
            taken = error
    raise taken


@dataclasses.dataclass(frozen=True)
class LongVideoJob:
    """What a long video is made of.

    Attributes
    ----------
    plan : ContinuationPlan
        Its segments.
    overlap : int
        Frames that neighbours share.
    renderer : SegmentRenderer
        Makes a segment.
    joining : JoinSettings
        Joins it to what comes before.
    video, start_image, end_image : torch.Tensor or None
        Images ``[frames, height, width, channels]`` in [0, 1].
    """

    plan: ContinuationPlan
    overlap: int
    renderer: SegmentRenderer
    joining: JoinSettings
    video: torch.Tensor | None = None
    start_image: torch.Tensor | None = None
    end_image: torch.Tensor | None = None

    @cached_property
    def head_frames(self) -> int:
        """Frames of the given video that no segment changes."""
        return max(self.plan.video_frames - self.overlap, 0)

    def inputs(self) -> dict[str, Any]:
        """Return what all segments depend on, beside the models and the negative prompt."""
        values = dataclasses.asdict(self.joining)
        for name in ("width", "height", "steps", "cfg", "sampler_name", "clip_apply_ratio", "smoothing"):
            values[name] = getattr(self.renderer, name)
        return {
            **values,
            "overlap": self.overlap,
            "video": frames_digest(self.video),
            "start_image": frames_digest(self.start_image),
        }

    @cached_property
    def parts(self) -> list[dict[str, Any]]:
        """Return what each part of the file depends on: the given video's own frames, then the segments."""
        end = frames_digest(self.end_image)
        parts = [{"name": "video", "frames": self.head_frames}] if self.head_frames else []
        for segment, prompt, seed in zip(self.plan.segments, self.plan.prompts, self.plan.seeds, strict=True):
            parts.append(
                {
                    "name": f"segment {segment.index + 1}",
                    "start": segment.start,
                    "length": segment.length,
                    "ends_video": segment.last,
                    "prompt": prompt,
                    "seed": seed,
                    "end_image": end if segment.last else None,
                }
            )
        return parts

    def write(
        self,
        target: LongVideo,
        metadata: Mapping[str, str],
        on_segment: Callable[[str], None],
    ) -> tuple[Path, list[str]]:
        """Make the parts that ``target`` lacks and finish its file.

        Parameters
        ----------
        target : LongVideo
            New, or resumed with :attr:`parts`.
        metadata : mapping of str to str
            Tags of the file.
        on_segment : callable
            Is told in words which segment begins.

        Returns
        -------
        tuple
            The finished file, and sentences on what of the prompts was lost.

        Raises
        ------
        VideoWriteError
            If the disk is full or refuses the file; the finished parts stay.
        """
        try:
            self.renderer.check_image_encoder()
            return self._write(target, metadata, on_segment)
        except BaseException:
            target.discard_if_empty()
            raise
        finally:
            target.close()

    def _write(
        self, target: LongVideo, metadata: Mapping[str, str], on_segment: Callable[[str], None]
    ) -> tuple[Path, list[str]]:
        parts = self.parts
        if self.head_frames and not target.finished:
            frames = rgb_frames(self.video, "video")
            head, tail = eight_bit(frames[: self.head_frames]), frames[self.head_frames :]
            target.append(head, parts[0], tail, stop_if_cancelled)
        first = target.finished - bool(self.head_frames)
        todo = self.plan.segments[first:]
        encoded: dict[str, list] = {}
        notes: dict[str, None] = {}
        preview_gone = 0.0

        def generate(segment: Segment, given: torch.Tensor | None) -> torch.Tensor:
            on_segment(f"Segment {segment.index + 1} of {len(self.plan.segments)}")
            prompts = self.plan.prompts[segment.index : segment.index + _PROMPTS_AHEAD]
            if prompts[0] not in encoded:
                encoded.clear()
                ahead, lost = self.renderer.encode_prompts(prompts)
                encoded.update(ahead)
                notes.update(dict.fromkeys(lost))
            samples = self.renderer.sample(
                encoded[prompts[0]],
                segment.length,
                self.plan.seeds[segment.index],
                given if segment.overlap else self._start(),
                self.end_image if segment.last else None,
                place=(segment.index, len(self.plan.segments)),
            )
            if segment.last:
                nonlocal preview_gone
                preview_gone = drop_preview()
            return self.renderer.decode(samples)

        given = target.tail if target.finished else self._video_tail()
        with sampling_progress_only():
            for _, frames, tail in continue_video(
                todo, self.overlap, given, generate, self.joining, stop_if_cancelled
            ):
                target.append(eight_bit(frames), parts[target.finished], tail, stop_if_cancelled)
                # Let go of this segment before the next one is made.
                del frames
        file = target.finish(metadata, stop_if_cancelled).path
        time.sleep(max(preview_gone - time.monotonic(), 0))
        return file, list(notes)

    def _start(self) -> torch.Tensor | None:
        """Return the start image at the size of the video."""
        if self.start_image is None:
            return None
        return fit_frames(self.start_image, self.plan.width, self.plan.height, "start_image")

    def _video_tail(self) -> torch.Tensor | None:
        """Return the given video's last frames where it has no others."""
        return None if self.video is None else rgb_frames(self.video, "video")[-self.overlap :].cpu()
