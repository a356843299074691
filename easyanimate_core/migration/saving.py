"""Saving: the user's own nodes stay; ours are added where nothing takes the frames, or on demand."""

from typing import Any

from . import our_nodes as ours
from . import their_nodes as theirs
from .graph import Node
from .work import Work

VHS_SAVE = "VHS_VideoCombine"
_FPS = 24
_CRF = (1, 17, 51)


def save_unseen(work: Work) -> None:
    """Add a Save Video for frames that no node takes."""
    for old in work.graph.of_type((*theirs.RELEASE_SAMPLERS, theirs.WRAPPER_DECODE)):
        if not work.graph.consumers(old):
            node = work.add(old, ours.SAVE)
            work.connect(node, "images", work.outputs[old, 0])


def replace_video_combine(work: Work) -> None:
    """Put Save Video in the place of every node of VideoHelperSuite that saves a video."""
    for old in work.graph.of_type((VHS_SAVE,)):
        node = work.add(old, ours.SAVE, main=True)
        work.link(node, "images", old, "images")
        prefix = old.values.get("filename_prefix")
        if work.graph.edge(old, "filename_prefix") is None and isinstance(prefix, str):
            node.values["filename_prefix"] = prefix
        node.values["fps"] = _number(old.values.get("frame_rate"), 1, _FPS, 120)
        if work.graph.edge(old, "frame_rate") is not None:
            work.report.note(f"{old}: the link into frame_rate is not carried over; set fps of {node}.")
        if "264" in str(old.values.get("format", "")):
            node.values["crf"] = int(_number(old.values.get("crf"), _CRF[0], _CRF[1], _CRF[2]))
        work.report.note(f"{old}: {_lost(work, old)} not carried over; {node} writes H.264 mp4.")


def _lost(work: Work, old: Node) -> str:
    audio = "audio, " if work.graph.edge(old, "audio") is not None else ""
    return f"{audio}format, loop_count and pingpong are"


def _number(value: Any, least: float, default: float, most: float) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return min(max(value, least), most) if usable else default
