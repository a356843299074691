"""Saving: the user's own nodes stay; ours are added where nothing takes the frames, or on demand."""

from typing import Any

from . import our_nodes as ours
from . import their_nodes as theirs
from .work import Work

_FPS, _CRF = 24, 17


def save_unseen(work: Work) -> None:
    """Add a Save Video for frames that no node takes."""
    for old in work.graph.of_type((*theirs.RELEASE_SAMPLERS, theirs.WRAPPER_DECODE)):
        if not work.graph.consumers(old):
            work.add(old, ours.SAVE, images=work.outputs[old, 0])


def replace_video_combine(work: Work) -> None:
    """Put Save Video in the place of every node of VideoHelperSuite that saves a video."""
    for old in work.graph.of_type((theirs.VHS_SAVE,)):
        node = work.add(old, ours.SAVE, main=True, images=work.linked(old, "images"))
        work.carry(node, "filename_prefix", old, "filename_prefix", str)
        work.not_linkable(old, "frame_rate", "crf", "audio")
        node.values["fps"] = _number(old.values.get("frame_rate"), 1, _FPS, 120)
        if "264" in str(old.values.get("format", "")):
            node.values["crf"] = int(_number(old.values.get("crf"), 1, _CRF, 51))
        work.report.note(
            f"{old}: format, loop_count and pingpong are not carried over; {node} writes H.264 mp4."
        )


def _number(value: Any, least: float, default: float, most: float) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return min(max(value, least), most) if usable else default
