"""The two streams that tell the transformer which frames are given: a mask and the masked video."""

from collections.abc import Callable
from typing import Any

import torch

_BLACK = -1.0


def mask_and_masked_video(
    frames: int,
    height: int,
    width: int,
    start: torch.Tensor | None = None,
    end: torch.Tensor | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Build the mask and the masked video of one clip, as in the EasyAnimateV3 release (July 2024).

    Parameters
    ----------
    frames : int
        Number of pixel frames F of the clip.
    height, width : int
        Size of the clip in pixels.
    start : torch.Tensor, optional
        Given first frames, ``[k, height, width, 3]`` (an alpha channel is ignored), values in [0, 1], 1 <= k <= F.
    end : torch.Tensor, optional
        Given last frames, as ``start``; needs ``start``, and both together have at most F frames.
    device, dtype : optional
        Of the results; the device of ``start`` and float32 by default.

    Returns
    -------
    mask : torch.Tensor
        Shape ``[1, 1, F, height, width]``: 0 where a frame is given, 1 where it is to be generated.
    masked_video : torch.Tensor
        Shape ``[1, 3, F, height, width]`` in [-1, 1]: the given frames, and -1 (black) elsewhere. Without any
        given frame (text to video) the mask is all ones and the video all -1.

    Raises
    ------
    ValueError
        ``end`` without ``start``, more given frames than F, or frames of another size.
    """
    if frames < 1:
        raise ValueError(f"A clip needs at least one frame, not {frames}.")
    if start is None and end is not None:
        raise ValueError("An end image needs a start image too: connect one, or remove the end image.")
    for name, given in (("start", start), ("end", end)):
        if given is not None:
            _check_frames(name, given, height, width)
    start_count = 0 if start is None else len(start)
    end_count = 0 if end is None else len(end)
    if start_count + end_count > frames:
        raise ValueError(
            f"{start_count} start and {end_count} end frames do not fit in a clip of {frames} frames: "
            "give fewer of them or make the clip longer."
        )

    if device is None and start is not None:
        device = start.device
    mask = torch.ones(1, 1, frames, height, width, device=device, dtype=dtype)
    video = torch.full((1, 3, frames, height, width), _BLACK, device=device, dtype=dtype)
    if start is not None:
        video[0, :, :start_count] = _channels_first(start).to(video.device)
        mask[:, :, :start_count] = 0
    if end is not None:
        video[0, :, frames - end_count :] = _channels_first(end).to(video.device)
        mask[:, :, frames - end_count :] = 0
    return mask, video


def _check_frames(name: str, given: torch.Tensor, height: int, width: int) -> None:
    shape = tuple(given.shape)
    if given.ndim != 4 or shape[0] < 1 or shape[1:3] != (height, width) or shape[3] < 3:
        raise ValueError(
            f"The {name} frames have shape {list(shape)}, but [frames, {height}, {width}, 3] is needed: "
            "resize them to the size of the clip."
        )


def _channels_first(given: torch.Tensor) -> torch.Tensor:
    """Turn ``[k, H, W, 3]`` in [0, 1] into ``[3, k, H, W]`` in [-1, 1]."""
    return given[..., :3].permute(3, 0, 1, 2) * 2 - 1


def encode_inpaint(
    vae: Any,
    mask: torch.Tensor,
    masked_video: torch.Tensor,
    on_slice: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Encode both streams with the Slice VAE, as the transformer reads them behind the noisy latent.

    Parameters
    ----------
    vae : SliceVAE
        Anything with ``encode(pixels)``, which returns the posterior mean, and ``config.scaling_factor``.
    mask : torch.Tensor
        Shape ``[B, 1, F, H, W]``, values 0 and 1. It is encoded with these values, in three equal channels.
    masked_video : torch.Tensor
        Shape ``[B, 3, F, H, W]`` in [-1, 1].
    on_slice : callable, optional
        Passed on to ``encode``, which calls it after each slice.

    Returns
    -------
    torch.Tensor
        Shape ``[B, 8, T, h, w]``: mask latents, then masked-video latents, both times the scaling factor.
    """
    options = {} if on_slice is None else {"on_slice": on_slice}
    mask_latents = vae.encode(mask.expand(-1, 3, -1, -1, -1), **options)
    video_latents = vae.encode(masked_video, **options)
    return torch.cat([mask_latents, video_latents], dim=1) * vae.config.scaling_factor
