"""Image-to-video conditioning on a native VAE, and the CONDITIONING entries that carry it."""

from functools import partial
from typing import Any

import node_helpers
import torch

from ..checkpoint.detect import CLIP_EMBED_WIDTH
from ..conditioning import blend_embeds, encode_inpaint, mask_and_masked_video
from ..vae import SLICE_FRAMES, SPACE_FACTOR, SliceVAE, SliceVAEConfig, latent_frames
from .images import fit_frames
from .main_memory import require_main_memory
from .model import CLIP_EMBEDS_KEY, CLIP_RATIO_KEY, GIVEN_FRAMES_KEY, INPAINT_KEY, EasyAnimateV3Model

SIDE_MULTIPLE = 16

# The mask, the masked video, and two copies that the VAE and the host make of it, in float32.
_BYTES_A_PIXEL = 4 * (1 + 3 + 2 * 3)

# A size counts as far from the trained one when its area differs by more than this factor.
FAR_AREA = 1.35


class _SliceVAEOnHost:
    """The host's VAE as :func:`encode_inpaint` wants one: pixels in [-1, 1] in, posterior mean out."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.config: SliceVAEConfig = vae.first_stage_model.config

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(pixels[0].movedim(0, -1) / 2 + 0.5)


def require_slice_vae(vae: Any) -> None:
    """Raise a ValueError unless ``vae`` is a Slice VAE."""
    if not isinstance(getattr(vae, "first_stage_model", None), SliceVAE):
        raise ValueError(
            "this VAE is another model's, but EasyAnimateV3 needs its Slice VAE: connect the VAE of "
            "EasyAnimateV3Loader or EasyAnimateV3VAELoader."
        )


def check_size(width: int, height: int) -> None:
    """Raise a ValueError that names the nearest size unless both sides are multiples of 16."""
    if width % SIDE_MULTIPLE or height % SIDE_MULTIPLE or min(width, height) < SIDE_MULTIPLE:
        nearest = [max(round(side / SIDE_MULTIPLE), 1) * SIDE_MULTIPLE for side in (width, height)]
        raise ValueError(
            f"a video of {width}x{height} pixels is not possible, since both sides must be multiples of "
            f"{SIDE_MULTIPLE}; the nearest size is {nearest[0]}x{nearest[1]}."
        )


def snap_length(length: int) -> int:
    """Return 1 for one frame, else the multiple of 8 at or below ``length`` (at least 8), as the release floors it."""
    return 1 if length <= 1 else max(length - length % SLICE_FRAMES, SLICE_FRAMES)


def size_warning(width: int, height: int, resolution: int | None) -> str | None:
    """Return a warning where the area is far from the one that the checkpoint was trained on, else None."""
    if resolution is None or 1 / FAR_AREA <= width * height / resolution**2 <= FAR_AREA:
        return None
    # The advice comes early: a node shows two short lines.
    return (
        f"Expect noise: {width}x{height} is far from the trained area of {resolution}x{resolution}; "
        "EasyAnimateV3ResizeToBucket finds a size."
    )


def encode_frames(
    vae: Any,
    width: int,
    height: int,
    length: int,
    start: torch.Tensor | None = None,
    end: torch.Tensor | None = None,
) -> torch.Tensor:
    """Encode the mask and the masked video of a clip.

    Parameters
    ----------
    vae : EasyAnimateV3VAE
        Native VAE of EasyAnimateV3.
    width, height : int
        Pixels, multiples of 16.
    length : int
        Frames: 1 or a multiple of 8.
    start, end : torch.Tensor, optional
        Images ``[frames, height, width, channels]`` in [0, 1] of any size for the first and last frames.

    Returns
    -------
    torch.Tensor
        ``[1, 8, latent frames, height / 8, width / 8]``, scaled as the transformer reads it.

    Raises
    ------
    ValueError
        For another VAE, a size or length that is not possible, or an end image without a start image.
    """
    require_slice_vae(vae)
    check_size(width, height)
    require_main_memory(
        width * height * length * _BYTES_A_PIXEL,
        f"prepare {length} frames of {width}x{height} pixels",
        "lower width, height or length",
    )
    fitted = [
        None if image is None else fit_frames(image, width, height, name)
        for image, name in ((start, "start_image"), (end, "end_image"))
    ]
    mask, masked_video = mask_and_masked_video(length, height, width, *fitted, dtype=torch.float32)
    inpaint = encode_inpaint(_SliceVAEOnHost(vae), mask, masked_video)
    if not torch.isfinite(inpaint).all():
        raise ValueError(
            "the VAE made NaN or infinite values of the given frames: give images with values from 0 to 1, or start "
            "ComfyUI with --fp32-vae."
        )
    return inpaint


def empty_latent(width: int, height: int, length: int, batch_size: int, channels: int) -> torch.Tensor:
    """Return zeros ``[batch, channels, latent frames, height / 8, width / 8]``."""
    return torch.zeros(
        batch_size, channels, latent_frames(length), height // SPACE_FACTOR, width // SPACE_FACTOR
    )


def attach_inpaint(
    conditioning: list,
    inpaint: torch.Tensor,
    given_frames: bool,
    clip_vision_output: Any = None,
    clip_vision_output_end: Any = None,
    clip_mix: float = 0.5,
) -> list:
    """Return the CONDITIONING with the inpainting latents and, where given, the CLIP embedding of the images.

    Parameters
    ----------
    conditioning : list
        CONDITIONING of a prompt.
    inpaint : torch.Tensor
        Of :func:`encode_frames`.
    given_frames : bool
        Whether any frame of the clip is given.
    clip_vision_output, clip_vision_output_end : comfy.clip_vision.Output, optional
        CLIP embeddings of the start and of the end image.
    clip_mix : float
        Share of the end image's embedding where both are given.

    Raises
    ------
    ValueError
        If a CLIP output has no projected embedding of one image.
    """
    values = {INPAINT_KEY: inpaint, GIVEN_FRAMES_KEY: given_frames}
    outputs = {"clip_vision_output": clip_vision_output, "clip_vision_output_end": clip_vision_output_end}
    embeds = [image_embeds(output, name) for name, output in outputs.items() if output is not None]
    if embeds:
        values[CLIP_EMBEDS_KEY] = blend_embeds(*embeds, clip_mix) if len(embeds) == 2 else embeds[0]
    return node_helpers.conditioning_set_values(conditioning, values)


def image_embeds(output: Any, name: str) -> torch.Tensor:
    """Return the embedding ``[1, 768]`` of a CLIP output; ``name`` is the input that an error names.

    Raises
    ------
    ValueError
        If there is no projected embedding of one image, or it is another model's.
    """
    read = output.get if isinstance(output, dict) else partial(getattr, output)
    embeds = read("image_embeds", None)
    if not isinstance(embeds, torch.Tensor) or not embeds.is_floating_point():
        raise ValueError(
            f"{name} holds no CLIP image embedding: connect EasyAnimateV3ImageEncode or CLIPVisionEncode."
        )
    if embeds.ndim != 2 or embeds.shape[-1] != CLIP_EMBED_WIDTH or not len(embeds):
        raise ValueError(
            f"the CLIP image embedding in {name} has shape {list(embeds.shape)}, but EasyAnimateV3 reads [1, 768]: encode "
            "the image with CLIP ViT-L/14 (clip_vision_l, or the CLIP_VISION of EasyAnimateV3Loader)."
        )
    if not torch.isfinite(embeds).all():
        raise ValueError(
            f"the CLIP image embedding in {name} holds NaN or infinite values: encode the image anew."
        )
    return embeds[:1].detach()


def ignored_frames_warning(model: Any, conditioning: list) -> str | None:
    """Return a warning where images were given to a transformer that has no input for them, else None."""
    base = getattr(model, "model", None)
    if not isinstance(base, EasyAnimateV3Model) or base.inpaint_channels:
        return None
    if not any(options.get(GIVEN_FRAMES_KEY) for _, options in conditioning):
        return None
    return (
        "This checkpoint knows text-to-video only, so the start and end images are not used; take an InP checkpoint "
        "for image-to-video."
    )


def set_clip_apply_ratio(conditioning: list, ratio: float) -> list:
    """Return the CONDITIONING with the share of model calls, at the end, that use CLIP tokens."""
    return node_helpers.conditioning_set_values(conditioning, {CLIP_RATIO_KEY: ratio})
