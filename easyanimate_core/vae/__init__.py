"""The Slice VAE of EasyAnimateV3: video to latents and back, a few frames at a time."""

from .config import SliceVAEConfig
from .model import SliceVAE
from .slices import SLICE_FRAMES, SPACE_FACTOR, encodable_frames, latent_frames, pixel_frames

__all__ = [
    "SLICE_FRAMES",
    "SPACE_FACTOR",
    "SliceVAE",
    "SliceVAEConfig",
    "encodable_frames",
    "latent_frames",
    "pixel_frames",
]
