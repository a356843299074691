"""Start images: their CLIP embedding, and sizes that the model knows."""

import nodes
from comfy_api.latest import io

from ..easyanimate_core.conditioning import closest_size
from ..easyanimate_core.host.image_encoder import encode_image
from ..easyanimate_core.host.images import fit_frames, rgb_frames, stretch_frames


class EasyAnimateV3ImageEncode(io.ComfyNode):
    """CLIP image embedding with the release's preprocessing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3ImageEncode",
            display_name="EasyAnimateV3 Image Encode",
            category="EasyAnimateV3/conditioning",
            description="CLIP embedding of the start image: what the video is about, beside its first frame.",
            inputs=[
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="CLIP ViT-L/14: EasyAnimateV3Loader's CLIP_VISION, or CLIPVisionLoader with clip_vision_l.",
                ),
                io.Image.Input(
                    "image",
                    tooltip="The start image; the release takes it at the size of the video (Resize To Bucket). "
                    "Of a batch the first one is used.",
                ),
            ],
            outputs=[
                io.ClipVisionOutput.Output(tooltip="For the clip_vision_output of EasyAnimateV3ImageToVideo.")
            ],
        )

    @classmethod
    def execute(cls, clip_vision: io.ClipVision.Type, image: io.Image.Type) -> io.NodeOutput:
        """Encode the image."""
        return io.NodeOutput(encode_image(clip_vision, rgb_frames(image, "image")))


class EasyAnimateV3ResizeToBucket(io.ComfyNode):
    """Resize a start image to the trained size that is nearest to its shape."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3ResizeToBucket",
            display_name="EasyAnimateV3 Resize To Bucket",
            category="EasyAnimateV3/image",
            description="“Resize to the start image”: picks the trained video size nearest to the image's aspect ratio.",
            inputs=[
                io.Image.Input("image", tooltip="Start image or video frames, of any size."),
                io.Int.Input(
                    "base",
                    default=512,
                    min=64,
                    max=2048,
                    step=64,
                    tooltip="Resolution of the checkpoint: 512, 768 or 960.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The image at the chosen size."),
                io.Int.Output(display_name="width", tooltip="Pixels, a multiple of 16."),
                io.Int.Output(display_name="height", tooltip="Pixels, a multiple of 16."),
            ],
        )

    @classmethod
    def execute(cls, image: io.Image.Type, base: int) -> io.NodeOutput:
        """Resize the image."""
        frames = rgb_frames(image, "image")
        height, width = closest_size(frames.shape[1], frames.shape[2], base)
        return io.NodeOutput(stretch_frames(frames, width, height, "image"), width, height)


class EasyAnimateV3FitImage(io.ComfyNode):
    """Scale and crop images to the size of a video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3FitImage",
            display_name="EasyAnimateV3 Fit Image",
            category="EasyAnimateV3/image",
            description="Scales images to cover a size and cuts them around the centre, as Image To Video does by itself; "
            "alpha is dropped.",
            inputs=[
                io.Image.Input("image", tooltip="Images or video frames, of any size."),
                io.Int.Input(
                    "width", default=672, min=16, max=nodes.MAX_RESOLUTION, step=16, tooltip="Pixels."
                ),
                io.Int.Input(
                    "height", default=384, min=16, max=nodes.MAX_RESOLUTION, step=16, tooltip="Pixels."
                ),
            ],
            outputs=[io.Image.Output(tooltip="The images at this size; unchanged where they have it.")],
        )

    @classmethod
    def execute(cls, image: io.Image.Type, width: int, height: int) -> io.NodeOutput:
        """Fit the images."""
        return io.NodeOutput(fit_frames(image, width, height, "image"))


NODES = [EasyAnimateV3ImageEncode, EasyAnimateV3ResizeToBucket, EasyAnimateV3FitImage]
