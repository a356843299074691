"""What the transformer reads of a CONDITIONING entry, checked: its parts may come from nodes of other packs."""

from collections.abc import Sequence
from typing import Any

import torch

from ..vae import SPACE_FACTOR


def valid_text(text: Any, mask: Any, width: int) -> torch.Tensor:
    """Return the states ``[1, tokens, channels]`` of the prompt's tokens, without padding.

    Parameters
    ----------
    text : torch.Tensor
        States of the text encoder.
    mask : torch.Tensor or None
        Its attention mask.
    width : int
        Channels that the transformer reads.

    Raises
    ------
    ValueError
        If the text is another encoder's, or none.
    """
    if not isinstance(text, torch.Tensor) or text.ndim != 3 or 0 in text.shape or text.is_complex():
        found = list(text.shape) if isinstance(text, torch.Tensor) else "nothing"
        raise ValueError(
            f"the text states of the conditioning are {found}, but must be [1, tokens, {width}]: connect "
            "EasyAnimateV3TextEncode."
        )
    if text.shape[-1] != width:
        raise ValueError(
            f"the text states are {text.shape[-1]} wide, but this transformer reads {width}: encode the prompt "
            "with its T5 encoder (EasyAnimateV3Loader's CLIP, or T5 XXL through CLIPLoader, type pixart)."
        )
    # A mask of another length belongs to another text, as after ConditioningConcat.
    fits = isinstance(mask, torch.Tensor) and mask.ndim > 0 and mask.shape[-1] == text.shape[1]
    if not fits or not mask.numel() or not mask.reshape(-1, mask.shape[-1])[0].any():
        return text
    return text[:, mask.reshape(-1, mask.shape[-1])[0].bool().to(text.device)]


def valid_frames(inpaint: Any, channels: int, latent_size: Sequence[int]) -> torch.Tensor:
    """Return the mask and masked-video latents ``[1, channels, frames, height, width]``.

    Raises
    ------
    ValueError
        If there are none, or they are not for a latent of this size ``(frames, height, width)``.
    """
    if inpaint is None:
        raise ValueError(
            "the conditioning has no EasyAnimateV3 frames in it: put EasyAnimateV3ImageToVideo between the text "
            "encoders and the sampler, for text-to-video too."
        )
    whole = isinstance(inpaint, torch.Tensor) and inpaint.ndim == 5 and inpaint.is_floating_point()
    if not whole or inpaint.shape[1] != channels or not len(inpaint):
        found = (
            f"{inpaint.dtype} {list(inpaint.shape)}"
            if isinstance(inpaint, torch.Tensor)
            else "of another kind"
        )
        raise ValueError(
            f"the EasyAnimateV3 frames in the conditioning are {found}, so another node changed them: take positive and "
            "negative of EasyAnimateV3ImageToVideo."
        )
    if inpaint.shape[2:] != torch.Size(latent_size):
        raise ValueError(
            f"the conditioning was made for a latent of {_size(inpaint.shape[2:])}, but the sampler got one of "
            f"{_size(latent_size)}; take positive, negative and latent from the same EasyAnimateV3ImageToVideo."
        )
    return inpaint


def valid_embeds(embeds: Any, channels: int) -> torch.Tensor:
    """Return the CLIP embedding ``[1, channels]``.

    Raises
    ------
    ValueError
        If it is none, or of another encoder.
    """
    whole = isinstance(embeds, torch.Tensor) and embeds.ndim == 2 and embeds.is_floating_point()
    if not whole or embeds.shape[-1] != channels or not len(embeds):
        found = list(embeds.shape) if isinstance(embeds, torch.Tensor) else "of another kind"
        raise ValueError(
            f"the CLIP embedding in the conditioning is {found}, but this transformer reads [1, {channels}]: take "
            "positive of EasyAnimateV3ImageToVideo."
        )
    return embeds


def valid_ratio(ratio: Any) -> float:
    """Return the share of model calls that use the CLIP embedding.

    Raises
    ------
    ValueError
        If it is no number from 0 to 1.
    """
    if not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
        raise ValueError(f"clip_apply_ratio in the conditioning is {ratio!r}: give a number from 0 to 1.")
    return ratio


def _size(frames_and_sides: Sequence[int]) -> str:
    """Describe a latent by the frames and sides of its video."""
    frames, height, width = frames_and_sides
    return f"{width * SPACE_FACTOR}x{height * SPACE_FACTOR} pixels and {frames} latent frames"
