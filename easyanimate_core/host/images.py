"""ComfyUI images of any size and channel count as frames of a clip."""

from collections.abc import Iterator

import comfy.utils
import numpy as np
import torch


def rgb_frames(images: torch.Tensor, name: str) -> torch.Tensor:
    """Return ``[frames, height, width, 3]`` in [0, 1] from a colour, RGBA or grey image or batch.

    Parameters
    ----------
    images : torch.Tensor
        ``[height, width, channels]``, ``[frames, height, width]`` (a mask) or ``[frames, height, width, channels]``
        with 1, 3 or 4 channels; alpha is dropped, grey is repeated.
    name : str
        The input that an error names.

    Raises
    ------
    ValueError
        If there is no frame, or another number of axes or channels.
    """
    if images.ndim == 3 and images.shape[-1] in (3, 4):
        images = images[None]
    elif images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or 0 in images.shape:
        raise ValueError(
            f"{name} has shape {list(images.shape)}, but an image is [frames, height, width, channels] with 1, 3 or 4 "
            "channels; connect the output of a node that loads or makes images."
        )
    return images.expand(*images.shape[:-1], 3) if images.shape[-1] == 1 else images[..., :3]


def fit_frames(images: torch.Tensor, width: int, height: int, name: str) -> torch.Tensor:
    """Return RGB frames of ``width`` x ``height``: scaled to cover it, then cut around the centre.

    Frames that have this size already are returned bit for bit.
    """
    frames = rgb_frames(images, name)
    if frames.shape[1:3] == (height, width):
        return frames
    scaled = comfy.utils.common_upscale(frames.movedim(-1, 1), width, height, "lanczos", "center")
    return scaled.movedim(1, -1).clamp(0, 1)


def stretch_frames(images: torch.Tensor, width: int, height: int, name: str) -> torch.Tensor:
    """Return RGB frames of ``width`` x ``height``, the sides scaled each on its own as the release does."""
    frames = rgb_frames(images, name)
    if frames.shape[1:3] == (height, width):
        return frames
    scaled = comfy.utils.common_upscale(frames.movedim(-1, 1), width, height, "lanczos", "disabled")
    return scaled.movedim(1, -1).clamp(0, 1)


def eight_bit(frames: torch.Tensor) -> Iterator[np.ndarray]:
    """Yield each frame of ``[frames, height, width, 3]`` in [0, 1] as uint8, one at a time to keep memory low."""
    for frame in frames:
        yield frame.mul(255).round().clamp(0, 255).to(device="cpu", dtype=torch.uint8).numpy()
