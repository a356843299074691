"""Frames to an mp4 file."""

import json
from typing import Any

from comfy_api.latest import io, ui

from ..easyanimate_core.host.images import eight_bit, is_finite, rgb_frames
from ..easyanimate_core.host.internals import launch_option
from ..easyanimate_core.host.long_video import stop_if_cancelled
from ..easyanimate_core.video import write_mp4
from .messages import show_in_node
from .places import check_prefix, save_place

_SPOILED = "Some pixels are NaN or infinite, and were saved black or white: look at the node that the frames come from."


def saving_inputs(prefix: str) -> list[io.Input]:
    """Return the inputs of a node that writes an mp4, with the default of ``filename_prefix``."""
    return [
        io.String.Input(
            "filename_prefix",
            default=prefix,
            tooltip="Path and name below the output folder; %year%-%month%-%day% and %width% are replaced.",
        ),
        io.Float.Input(
            "fps",
            default=24.0,
            min=1.0,
            max=120.0,
            step=0.01,
            tooltip="Frames per second; 24 as trained.",
        ),
        io.Int.Input(
            "crf",
            default=17,
            min=1,
            max=51,
            tooltip="Quality: 1 is best and largest, 17 shows no loss, 51 is worst.",
        ),
    ]


class EasyAnimateV3SaveVideo(io.ComfyNode):
    """Save frames as an H.264 mp4 with the workflow inside."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3SaveVideo",
            display_name="EasyAnimateV3 Save Video",
            category="EasyAnimateV3/video",
            description="Saves frames as H.264 mp4; drop the file into ComfyUI to get this graph back.",
            inputs=[
                io.Image.Input("images", tooltip="Frames of the video."),
                *saving_inputs("video/EasyAnimateV3"),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        """Refuse a prefix that cannot be used before anything is sampled; None is one that another node gives."""
        return check_prefix(filename_prefix)

    @classmethod
    def execute(cls, images: io.Image.Type, filename_prefix: str, fps: float, crf: int) -> io.NodeOutput:
        """Write the file and show it in the node."""
        frames = rgb_frames(images, "images", finite=False)
        spoiled = None if is_finite(frames) else _SPOILED
        height, width = frames.shape[1:3]
        place = save_place(filename_prefix, width, height)
        names = place.files()
        written = write_mp4(
            next(names),
            eight_bit(frames),
            fps,
            crf=crf,
            metadata=graph_metadata(cls.hidden),
            instead=names,
            check=stop_if_cancelled,
        )
        shown = ui.SavedResult(written.path.name, place.subfolder, io.FolderType.output)
        notes = show_in_node(cls, spoiled) or {}
        return io.NodeOutput(ui={**ui.PreviewVideo([shown]).as_dict(), **notes})


def graph_metadata(hidden: Any) -> dict[str, str]:
    """Return the graph as the host's own SaveVideo stores it, unless the user switched that off.

    ``hidden`` is the node's holder of hidden inputs, ``prompt`` and ``extra_pnginfo`` among them.
    """
    if launch_option("disable_metadata"):
        return {}
    entries: dict[str, Any] = dict(hidden.extra_pnginfo or {})
    if hidden.prompt is not None:
        entries["prompt"] = hidden.prompt
    return {key: json.dumps(value) for key, value in entries.items()}


NODES = [EasyAnimateV3SaveVideo]
