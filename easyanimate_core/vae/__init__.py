"""The Slice VAE of EasyAnimateV3: video to latents and back, a few frames at a time."""

from .config import SliceVAEConfig
from .model import SliceVAE
from .slices import latent_frames, pixel_frames

__all__ = ["SliceVAE", "SliceVAEConfig", "latent_frames", "pixel_frames"]
