"""A segment joined to the frames that it continues, and the loop over all segments of a long video."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from .drift import control_drift
from .overlap import mix_into, mix_overlap
from .plan import Segment


@dataclass(frozen=True)
class JoinSettings:
    """How a segment is joined to the frames that it continues.

    Attributes
    ----------
    overlap_mix : str
        One of :data:`.overlap.OVERLAP_MIXES`.
    drift_control, drift_scope : str
        One of :data:`.drift.DRIFT_CONTROLS` and of :data:`.drift.DRIFT_SCOPES`.
    drift_strength : float
        0 to 1.
    """

    overlap_mix: str = "linear"
    drift_control: str = "off"
    drift_strength: float = 1.0
    drift_scope: str = "overlap"


def join_segment(
    given: torch.Tensor | None,
    segment: torch.Tensor,
    settings: JoinSettings,
    check: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Correct a segment's drift against the given frames, then mix these with its own version of them.

    Parameters
    ----------
    given : torch.Tensor or None
        The frames that were given to the segment, ``[k, H, W, 3]`` in [0, 1]; None for a first segment.
    segment : torch.Tensor
        The whole segment, ``[L, H, W, 3]`` in [0, 1], L >= k.
    settings : JoinSettings
        Mix and drift control.
    check : callable, optional
        Is called before each frame, and stops the work by raising, as for a cancel.

    Returns
    -------
    torch.Tensor
        ``[L, H, W, 3]`` in [0, 1]; ``segment`` itself when nothing is given. ``segment`` is never changed.

    Raises
    ------
    ValueError
        Frames of different sizes, more given frames than the segment has, or an unknown setting.
    """
    if given is None:
        return segment
    corrected = control_drift(
        segment, given, settings.drift_control, settings.drift_strength, settings.drift_scope, check
    )
    # What drift control made is new already: a second copy of a long segment would cost gigabytes.
    mix = mix_overlap if corrected is segment else mix_into
    return mix(given, corrected, settings.overlap_mix)


def join_frames(parts: Sequence[torch.Tensor], overlap: int) -> torch.Tensor:
    """Put parts in a row, each in place of the last frames of the one before.

    Parameters
    ----------
    parts : sequence of torch.Tensor
        At least one, ``[frames, H, W, 3]`` each; all but a first one begin with their mixed overlap.
    overlap : int
        Frames k that neighbours share.

    Returns
    -------
    torch.Tensor
        ``[all frames, H, W, 3]`` on the device of the last part.

    Raises
    ------
    ValueError
        Without parts, with parts of different sizes, or with fewer frames than the overlap.
    """
    if not parts:
        raise ValueError("There is nothing to join: connect video or a segment.")
    for part in parts:
        if part.shape[1:] != parts[0].shape[1:]:
            sizes = [f"{each.shape[2]}x{each.shape[1]}" for each in (parts[0], part)]
            raise ValueError(f"A segment is {sizes[1]}, but the first is {sizes[0]}: give all one size.")
        if len(part) < overlap:
            raise ValueError(
                f"overlap is {overlap}, but one of the segments has {len(part)} frames: lower overlap."
            )
    device = parts[-1].device
    return torch.cat([*(part[: len(part) - overlap].to(device) for part in parts[:-1]), parts[-1]])


def continue_video(
    plan: Sequence[Segment],
    overlap: int,
    given: torch.Tensor | None,
    generate: Callable[[Segment, torch.Tensor | None], torch.Tensor],
    settings: JoinSettings,
    check: Callable[[], None] | None = None,
) -> Iterator[tuple[Segment, torch.Tensor, torch.Tensor | None]]:
    """Make the segments of a plan one after another, each from the last frames of the one before.

    No frames are kept but the ``overlap`` that are handed on, so memory does not grow with the video.

    Parameters
    ----------
    plan : sequence of Segment
        From :func:`.plan.plan_segments`, or its rest when a video is resumed.
    overlap : int
        Frames k that are handed on.
    given : torch.Tensor or None
        What the first segment continues, ``[N, H, W, 3]`` in [0, 1], N >= k, of which the last k frames are used;
        None where that segment has no overlap.
    generate : callable
        ``generate(segment, frames)`` returns the segment's frames ``[segment.length, H, W, 3]`` in [0, 1];
        ``frames`` are the k given ones, bit for bit, or None.
    settings : JoinSettings
        Mix and drift control.
    check : callable, optional
        Is called all the time while a segment is joined, and stops the work by raising, as for a cancel.

    Yields
    ------
    segment : Segment
        The segment that was made.
    frames : torch.Tensor
        Its finished frames: all but the last k, which are still to be mixed, and in the last segment all.
    tail : torch.Tensor or None
        The k frames to hand on, in memory of their own; None after the last segment.

    Raises
    ------
    ValueError
        Given frames that do not go with the plan, or a segment of another length or size than it should have.
    """
    tail = _first_given(plan, overlap, given)
    del given
    for segment in plan:
        made = join_segment(tail, _checked(generate(segment, tail), segment), settings, check)
        tail = None if segment.last else made[-overlap:].clone()
        # Nothing here names the frames while the caller has them, so that they are freed when it drops them.
        ready = [made if segment.last else made[:-overlap]]
        del made
        yield segment, ready.pop(), tail


def _first_given(plan: Sequence[Segment], overlap: int, given: torch.Tensor | None) -> torch.Tensor | None:
    needed = plan[0].overlap if plan else 0
    if not needed and given is not None:
        raise ValueError("The plan begins a new video, but a video is given: count its frames in the plan.")
    if needed and (given is None or len(given) < overlap):
        raise ValueError(
            f"The plan continues a video by its last {overlap} frames, but "
            f"{0 if given is None else len(given)} are given: connect a longer video or lower overlap."
        )
    return given[-overlap:].clone() if needed else None


def _checked(frames: torch.Tensor, segment: Segment) -> torch.Tensor:
    if len(frames) != segment.length:
        raise ValueError(
            f"Segment {segment.index + 1} came out with {len(frames)} frames in place of {segment.length}: "
            "use the model and VAE of EasyAnimateV3, which return as many as are asked for."
        )
    return frames
