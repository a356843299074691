"""How segments of a longer video become one: colours matched, overlap mixed, frames in a row."""

from typing import Any

from comfy_api.latest import io

from ..easyanimate_core.continuation import MAX_OVERLAP, JoinSettings, join_frames, join_segment
from ..easyanimate_core.host.images import rgb_frames
from ..easyanimate_core.host.long_video import stop_if_cancelled
from .messages import show_progress
from .segments import joining_inputs


class EasyAnimateV3BlendOverlap(io.ComfyNode):
    """Match a segment to the frames that it goes on from, and mix the overlap."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3BlendOverlap",
            display_name="EasyAnimateV3 Blend Overlap",
            category="EasyAnimateV3/video",
            description="Corrects the colours of a segment to those of the frames it goes on from, and mixes these with "
            "its own first frames.",
            inputs=[
                io.Image.Input("previous", tooltip="The frames that the segment was given as its start."),
                io.Image.Input("next", tooltip="All frames of the segment."),
                *joining_inputs(),
            ],
            outputs=[io.Image.Output(tooltip="The segment, as many frames as next.")],
        )

    @classmethod
    def execute(
        cls,
        previous: io.Image.Type,
        next: io.Image.Type,
        overlap_mix: str,
        drift_control: str,
        drift_strength: float,
        drift_scope: str,
    ) -> io.NodeOutput:
        """Join the segment to the given frames."""
        settings = JoinSettings(overlap_mix, drift_control, drift_strength, drift_scope)
        return io.NodeOutput(
            join_segment(
                rgb_frames(previous, "previous"), rgb_frames(next, "next"), settings, stop_if_cancelled
            )
        )


class EasyAnimateV3JoinSegments(io.ComfyNode):
    """Put a video and segments that overlap in a row."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3JoinSegments",
            display_name="EasyAnimateV3 Join Segments",
            category="EasyAnimateV3/video",
            description="Joins segments whose overlap was blended: each replaces the last frames of what comes before. "
            "EasyAnimateV3 Extend Video places it, with one more input a segment.",
            inputs=[
                io.Int.Input(
                    "overlap", default=4, min=0, max=MAX_OVERLAP, tooltip="Frames that two neighbours share."
                ),
                io.Image.Input("video", optional=True, tooltip="What comes before the first segment."),
                io.Image.Input("segment_0000", optional=True, tooltip="First segment."),
                io.Image.Input("segment_0001", optional=True, tooltip="Second segment."),
            ],
            outputs=[io.Image.Output(tooltip="All frames.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, overlap: int, video: io.Image.Type | None = None, **segments: Any) -> io.NodeOutput:
        """Join the frames."""
        parts = [rgb_frames(frames, name) for name, frames in sorted(segments.items()) if frames is not None]
        if video is not None:
            parts.insert(0, rgb_frames(video, "video"))
        joined = join_frames(parts, overlap)
        show_progress(cls, f"Finished: {len(joined)} frames")
        return io.NodeOutput(joined)


NODES = [EasyAnimateV3BlendOverlap, EasyAnimateV3JoinSegments]
