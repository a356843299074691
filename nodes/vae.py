"""Video to latent and back."""

from comfy_api.latest import io

from ..easyanimate_core.host.conditioning import check_size, require_slice_vae
from ..easyanimate_core.host.images import rgb_frames
from ..easyanimate_core.host.inputs import latent_samples
from ..easyanimate_core.vae import SLICE_FRAMES
from .messages import show_in_node


class EasyAnimateV3VAEEncode(io.ComfyNode):
    """Encode frames with the Slice VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3VAEEncode",
            display_name="EasyAnimateV3 VAE Encode",
            category="EasyAnimateV3/latent",
            description="Encodes an image or video frames, for video-to-video.",
            inputs=[
                io.Image.Input(
                    "pixels",
                    tooltip="1 frame or a multiple of 8; frames left over at the end are not encoded.",
                ),
                io.Vae.Input("vae", tooltip="The Slice VAE of EasyAnimateV3."),
                io.Boolean.Input(
                    "tiling",
                    default=True,
                    tooltip="Encode frames over 384 pixels in tiles, as the release does; off takes more memory.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="Video latent.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, pixels: io.Image.Type, vae: io.Vae.Type, tiling: bool) -> io.NodeOutput:
        """Encode the frames."""
        require_slice_vae(vae)
        frames = rgb_frames(pixels, "pixels")
        check_size(frames.shape[2], frames.shape[1])
        # As many as EasyAnimateV3ImageToVideo makes room for.
        count = max(len(frames) - len(frames) % SLICE_FRAMES, 1)
        left = len(frames) - count
        cut = f"A clip has 1 frame or a multiple of 8; of {len(frames)} frames the last {left} were left out."
        samples = vae.encode_frames(frames[:count], tiled=None if tiling else False)
        return io.NodeOutput({"samples": samples}, ui=show_in_node(cls, cut if left else None))


class EasyAnimateV3VAEDecode(io.ComfyNode):
    """Decode a latent with the Slice VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3VAEDecode",
            display_name="EasyAnimateV3 VAE Decode",
            category="EasyAnimateV3/latent",
            description="Decodes a video latent to frames, with the release's smoothing of slice borders.",
            inputs=[
                io.Latent.Input("samples", tooltip="Video latent."),
                io.Vae.Input("vae", tooltip="The Slice VAE of EasyAnimateV3."),
                io.Boolean.Input(
                    "smoothing",
                    default=True,
                    tooltip="Hide the borders of the 8-frame slices, as the release does; off takes 0.4 of the time.",
                ),
                io.Boolean.Input(
                    "tiling",
                    default=True,
                    tooltip="Decode frames over 384 pixels in tiles, as the release does; off takes more memory.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="Frames; the clips of a batch one after the other.")],
        )

    @classmethod
    def execute(
        cls, samples: io.Latent.Type, vae: io.Vae.Type, smoothing: bool, tiling: bool
    ) -> io.NodeOutput:
        """Decode the latent."""
        require_slice_vae(vae)
        options = {"smoothing": smoothing, "tiled": None if tiling else False}
        frames = vae.decode(latent_samples(samples, "samples"), vae_options=options)
        return io.NodeOutput(frames.flatten(0, 1))


NODES = [EasyAnimateV3VAEEncode, EasyAnimateV3VAEDecode]
