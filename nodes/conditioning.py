"""Text-to-video, image-to-video and first-and-last-frame conditioning."""

import nodes
from comfy_api.latest import io

from ..easyanimate_core.host.conditioning import (
    attach_inpaint,
    empty_latent,
    encode_frames,
    size_warning,
    snap_length,
)
from ..easyanimate_core.host.inputs import require_conditioning
from ..easyanimate_core.host.progress import place_in_expansion
from .messages import show_in_node


class EasyAnimateV3ImageToVideo(io.ComfyNode):
    """Set which frames are given, and make the empty latent of the clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3ImageToVideo",
            display_name="EasyAnimateV3 Image To Video",
            category="EasyAnimateV3/conditioning",
            description="Prepares a clip: without images text-to-video, with a start image image-to-video, with an end "
            "image too first-and-last-frame. The model needs this node for text-to-video as well.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the video shows."),
                io.Conditioning.Input("negative", tooltip="What it should not show."),
                io.Vae.Input("vae", tooltip="The Slice VAE of EasyAnimateV3."),
                io.Int.Input(
                    "width",
                    default=672,
                    min=16,
                    max=nodes.MAX_RESOLUTION,
                    step=16,
                    tooltip="Pixels, a multiple of 16. Keep the area near the checkpoint's: 672x384, 1008x576, 1248x720.",
                ),
                io.Int.Input(
                    "height",
                    default=384,
                    min=16,
                    max=nodes.MAX_RESOLUTION,
                    step=16,
                    tooltip="Pixels, a multiple of 16.",
                ),
                io.Int.Input(
                    "length",
                    default=144,
                    min=1,
                    max=nodes.MAX_RESOLUTION,
                    tooltip="Frames at 24 per second: 1 (an image) or a multiple of 8, up to 144 as trained.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Clips to sample at once."),
                io.Image.Input(
                    "start_image",
                    optional=True,
                    tooltip="First frame of the clip; a batch gives its first frames. Other sizes are scaled and cropped.",
                ),
                io.Image.Input(
                    "end_image",
                    optional=True,
                    tooltip="Last frame of the clip; a batch gives its last frames. Needs a start image too.",
                ),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="CLIP embedding of the start image (EasyAnimateV3ImageEncode or CLIPVisionEncode).",
                ),
                io.ClipVisionOutput.Input(
                    "clip_vision_output_end",
                    optional=True,
                    tooltip="CLIP embedding of the end image; the release embeds the start image alone.",
                ),
                io.Float.Input(
                    "clip_mix",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Where both embeddings are given, the share of the end image's: 0 start only, 1 end only.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive", tooltip="With the given frames and the CLIP embedding."
                ),
                io.Conditioning.Output(display_name="negative", tooltip="With the given frames."),
                io.Latent.Output(display_name="latent", tooltip="Empty video latent of the clip's size."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        positive: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        vae: io.Vae.Type,
        width: int,
        height: int,
        length: int,
        batch_size: int,
        start_image: io.Image.Type | None = None,
        end_image: io.Image.Type | None = None,
        clip_vision_output: io.ClipVisionOutput.Type | None = None,
        clip_vision_output_end: io.ClipVisionOutput.Type | None = None,
        clip_mix: float = 0.5,
    ) -> io.NodeOutput:
        """Encode the given frames and attach them to both conditionings."""
        require_conditioning(positive, "positive")
        require_conditioning(negative, "negative")
        frames = snap_length(length)
        inpaint = encode_frames(vae, width, height, frames, start_image, end_image)
        snapped = (
            f"A clip has 1 frame or a multiple of 8; {length} frames became {frames}."
            if frames != length
            else None
        )
        # The node that made several segments of a video has said it already.
        alone = place_in_expansion() == (0, 1)
        warning = size_warning(width, height, getattr(vae, "trained_resolution", None)) if alone else None
        latent = empty_latent(width, height, frames, batch_size, vae.latent_channels)
        return io.NodeOutput(
            attach_inpaint(
                positive,
                inpaint,
                start_image is not None,
                clip_vision_output,
                clip_vision_output_end,
                clip_mix,
            ),
            attach_inpaint(negative, inpaint, start_image is not None),
            {"samples": latent},
            ui=show_in_node(cls, snapped, warning),
        )


NODES = [EasyAnimateV3ImageToVideo]
