"""The Slice VAE as a native ComfyUI VAE, so that the core encode and decode nodes work on it too."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch

from ..attention import AttentionFunction
from ..vae import SliceVAE, SliceVAEConfig, encodable_frames, latent_frames, pixel_frames
from ..vae.tiling import TILE_PIXELS
from .images import rgb_frames
from .inputs import latent_samples
from .internals import vae_attention
from .loading import assign_weights
from .out_of_memory import describe_clip, describe_latent, say_what_to_lower
from .progress import slice_callback

# Values per pixel of a tile that live at once while a slice of the full-size model is decoded;
# tests/host/test_memory_required.py counts them.
LIVE_VALUES = 6200
FULL_SIZE_CHANNELS = 128

_LESS = "lower width, height or length"


class HostSliceVAE(SliceVAE):
    """The Slice VAE with ComfyUI's progress bar and cancel."""

    def encode(self, pixels: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return the posterior mean ``[batch, 4, frames, height, width]``, not scaled, of pixels in [-1, 1]."""
        if options.get("on_slice") is None:
            options["on_slice"] = slice_callback(self.encode_steps(pixels.shape, tiled=options.get("tiled")))
        encode = partial(super().encode, pixels, **options)
        return say_what_to_lower(encode, lambda: f"encode {describe_clip(*pixels.shape[2:])}", _LESS)

    def decode(
        self, z: torch.Tensor, *, tiled: bool | None = None, smoothing: bool = False, **options: Any
    ) -> Any:
        """Return pixels ``[batch, 3, frames, height, width]`` in about [-1, 1] of latents that are not scaled."""
        if not torch.isfinite(z).all():
            raise ValueError(
                "the latent to decode holds NaN or infinite values, so the video would be black; sample it anew, "
                "with the model in bf16 or fp32 if it was in fp16."
            )
        if z.ndim == 4:
            # An image latent of the host, [batch, 4, height, width], is a clip of one frame.
            z = z.unsqueeze(2)
        options.setdefault(
            "on_slice", slice_callback(self.decode_steps(z.shape, tiled=tiled, smoothing=smoothing))
        )
        # The clip stays in main memory and visits the device slice by slice.
        place = {"device": z.device, "dtype": z.dtype}
        decode = partial(super().decode, z.cpu(), tiled=tiled, smoothing=smoothing, **place, **options)
        return say_what_to_lower(decode, lambda: f"decode {describe_latent(z)}", _LESS)


def _host_attention() -> AttentionFunction:
    """Return attention with one head by the host's choice for VAEs, whose heads are too wide for flash kernels."""
    chosen = vae_attention()

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
        # The host's functions take [batch, channels, tokens].
        q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
        return chosen(q, k, v).transpose(1, 2)

    return attention


class EasyAnimateV3VAE(comfy.sd.VAE):
    """VAE of EasyAnimateV3 behind ComfyUI's interface.

    ``encode`` takes images ``[frames, height, width, 3]`` in [0, 1] and returns latents
    ``[1, 4, frames, height, width]`` that are not scaled; ``decode`` is its inverse and takes
    ``vae_options={"smoothing": bool, "tiled": bool | None}``.

    Parameters
    ----------
    config : SliceVAEConfig
        Dimensions of the model.
    state_dict : dict of str to torch.Tensor
        Weights under the release's names; tensors are taken out as they are loaded.
    trained_resolution : int, optional
        Side of the square whose area the checkpoint of this VAE was trained on, where its name tells.
    """

    def __init__(
        self,
        config: SliceVAEConfig,
        state_dict: dict[str, torch.Tensor],
        trained_resolution: int | None = None,
    ) -> None:
        config.require_shapes({name: tuple(tensor.shape) for name, tensor in state_dict.items()})
        # The host's constructor only knows its own VAEs, so its attributes are set here one by one.
        self.trained_resolution = trained_resolution
        self.device = comfy.model_management.vae_device()
        self.output_device = comfy.model_management.intermediate_device()
        # No float16: the release's VAE overflows to black frames there.
        self.working_dtypes = [torch.bfloat16, torch.float32]
        self.vae_dtype = comfy.model_management.vae_dtype(self.device, self.working_dtypes)
        self.latent_channels = config.latent_channels
        self.latent_dim = 3
        self.output_channels = config.out_channels
        self.downscale_ratio = (_nearest_latent_frames, config.space_factor, config.space_factor)
        self.upscale_ratio = (pixel_frames, config.space_factor, config.space_factor)
        self.downscale_index_formula = (config.time_factor, config.space_factor, config.space_factor)
        self.upscale_index_formula = self.downscale_index_formula
        self.crop_input = True
        self.pad_channel_value = None
        self.not_video = False
        self.disable_offload = False
        self.extra_1d_channel = None
        self.size = None
        self.process_input = lambda image: image * 2.0 - 1.0
        self.process_output = lambda pixels: torch.clamp(pixels / 2.0 + 0.5, min=0.0, max=1.0)
        self.config = config
        # Options of the decode that is running, which the host does not hand on everywhere; None while there is none.
        self._decoding: dict[str, Any] | None = None
        self._encoding = False
        model = HostSliceVAE(
            config,
            operations=comfy.ops.disable_weight_init,
            dtype=self.vae_dtype,
            device="meta",
            attention=_host_attention(),
        )
        assign_weights(model, state_dict)
        self.first_stage_model = model
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model,
            load_device=self.device,
            offload_device=comfy.model_management.vae_offload_device(),
        )
        self.model_size()

    def memory_used_encode(
        self, shape: Sequence[int], dtype: torch.dtype, tiled: bool | None = None
    ) -> float:
        """Estimate the bytes that encoding pixels ``[batch, 3, frames, height, width]`` takes."""
        # The host brings the whole clip to the device before it is encoded.
        clip = math.prod(shape) * comfy.model_management.dtype_size(dtype)
        return _slice_memory(self.config, shape[-2], shape[-1], dtype, tiled) + clip

    def memory_used_decode(self, shape: Sequence[int], dtype: torch.dtype) -> float:
        """Estimate the bytes that decoding latents ``[batch, 4, frames, height, width]`` takes."""
        height, width = (side * self.config.space_factor for side in shape[-2:])
        return _slice_memory(self.config, height, width, dtype, (self._decoding or {}).get("tiled"))

    def decode(self, samples_in: torch.Tensor, vae_options: dict[str, Any] | None = None) -> torch.Tensor:
        """Decode latents ``[batch, 4, frames, height, width]`` to images ``[batch, frames, height, width, 3]``."""
        samples_in = latent_samples({"samples": samples_in}, "the latent to decode")
        self._decoding = vae_options or {}
        try:
            decode = partial(super().decode, samples_in, vae_options=self._decoding)
            return say_what_to_lower(decode, lambda: f"decode {describe_latent(samples_in)}", _LESS)
        finally:
            self._decoding = None

    def encode(self, pixel_samples: torch.Tensor) -> torch.Tensor:
        """Encode images in [0, 1] to latents ``[batch, 4, frames, height, width]``.

        Parameters
        ----------
        pixel_samples : torch.Tensor
            The frames of a clip ``[frames, height, width, 3]``, or clips ``[batch, frames, height, width, 3]``.
        """
        pixel_samples = _frames(pixel_samples)
        self._encoding = True
        try:
            encode = partial(super().encode, pixel_samples)
            return say_what_to_lower(encode, lambda: f"encode {_size(pixel_samples)}", _LESS)
        finally:
            self._encoding = False

    def encode_frames(self, frames: torch.Tensor, tiled: bool | None = None) -> torch.Tensor:
        """Encode ``[frames, height, width, 3]`` in [0, 1] with tiling as published (None) or never (False)."""
        if tiled is None:
            return self.encode(frames)
        encode = partial(self._encode_frames, frames, tiled)
        return say_what_to_lower(encode, lambda: f"encode {_size(frames)}", _LESS)

    def _encode_frames(self, frames: torch.Tensor, tiled: bool) -> torch.Tensor:
        # The host's encode passes no options on.
        memory = self.memory_used_encode((1, *frames.movedim(-1, 0).shape), self.vae_dtype, tiled)
        comfy.model_management.load_models_gpu([self.patcher], memory_required=memory)
        pixels = self.process_input(frames.movedim(-1, 0)[None])
        place = {"device": self.device, "dtype": self.vae_dtype}
        return self.first_stage_model.encode(pixels, tiled=tiled, **place).to(self.output_device).float()

    def decode_tiled(self, samples: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        """Decode in the tiles of the core node."""
        samples = latent_samples({"samples": samples}, "the latent to decode")
        if samples.ndim == 4:
            # Image latents are clips of one frame here, of which the host's tiles for images know nothing.
            samples = samples.unsqueeze(2)
        decode = partial(super().decode_tiled, samples, *arguments, **options)
        return say_what_to_lower(decode, "decode the latent", f"{_LESS}, or the node's tile_size")

    def encode_tiled(self, pixel_samples: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        """Encode in the tiles of the core node."""
        encode = partial(super().encode_tiled, _frames(pixel_samples), *arguments, **options)
        return say_what_to_lower(encode, "encode the images", f"{_LESS}, or the node's tile_size")

    # In space only: the VAE cuts time itself, in slices that a tile's border would shift or leave without context.
    def decode_tiled_3d(self, samples: torch.Tensor, **options: Any) -> torch.Tensor:
        """Decode tiles of the picture, each over the whole clip."""
        if self._decoding is not None:
            return self._decode_again(samples)
        return super().decode_tiled_3d(samples, **{**options, "tile_t": samples.shape[2]})

    def decode_tiled_(self, samples: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        """Decode tiles of image latents ``[batch, 4, height, width]``."""
        if self._decoding is not None:
            return self._decode_again(samples)
        return super().decode_tiled_(samples, *arguments, **options)

    def encode_tiled_3d(self, samples: torch.Tensor, **options: Any) -> torch.Tensor:
        """Encode tiles of the picture, each over the whole clip."""
        if self._encoding:
            return self._encode_again(samples)
        return super().encode_tiled_3d(samples, **{**options, "tile_t": samples.shape[2]})

    # The host's answer to memory that ran out outside the model, which takes smaller tiles by itself: its own tiles
    # would leave smoothing out.
    def _decode_again(self, samples: torch.Tensor) -> torch.Tensor:
        options = {**self._decoding, "tiled": True}
        place = {"device": self.device, "dtype": self.vae_dtype}
        clips = (self.first_stage_model.decode(clip.to(**place), **options) for clip in samples.split(1))
        return torch.cat([self.process_output(clip.to(self.output_device).float()) for clip in clips])

    def _encode_again(self, pixels: torch.Tensor) -> torch.Tensor:
        # Now the clip stays in main memory.
        pixels = self.process_input(pixels).to(self.vae_dtype)
        clips = (self.first_stage_model.encode(clip, device=self.device) for clip in pixels.split(1))
        return torch.cat([clip.to(self.output_device).float() for clip in clips])


def _frames(images: torch.Tensor) -> torch.Tensor:
    """Return images as frames; clips ``[batch, frames, height, width, 3]``, which the host knows too, as clips."""
    clips = isinstance(images, torch.Tensor) and images.ndim == 5

    def check() -> torch.Tensor:
        return rgb_frames(images.flatten(0, 1) if clips else images, "pixels")

    frames = say_what_to_lower(check, "check the images to encode", _LESS)
    return frames.unflatten(0, images.shape[:2]) if clips else frames


def _size(images: torch.Tensor) -> str:
    """Describe images ``[frames, height, width, 3]``."""
    return describe_clip(*images.shape[-4:-1])


def _nearest_latent_frames(frames: int) -> int:
    """Return the latent frames of :func:`encodable_frames`."""
    return latent_frames(encodable_frames(frames))


def _slice_memory(
    config: SliceVAEConfig, height: int, width: int, dtype: torch.dtype, tiled: bool | None = None
) -> float:
    """Estimate the bytes that one slice of one tile needs, whatever the length of the clip."""
    if config.use_tiling if tiled is None else tiled:
        height, width = min(height, TILE_PIXELS), min(width, TILE_PIXELS)
    values = height * width * LIVE_VALUES * config.ch / FULL_SIZE_CHANNELS
    return values * comfy.model_management.dtype_size(dtype)
