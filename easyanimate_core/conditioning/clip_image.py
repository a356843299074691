"""The release's preprocessing of the start image for the CLIP image encoder."""

import torch
import torch.nn.functional as F

CLIP_SIZE = 224
# Longer sides, in short ones, are cut before they are enlarged: a strip of one pixel would take gigabytes.
LONGEST = 32


def clip_image(images: torch.Tensor, size: int = CLIP_SIZE) -> torch.Tensor:
    """Resize the shorter side to ``size`` (bicubic, antialiased) and cut the centre square.

    Sizes and offsets are rounded as Hugging Face's ``CLIPImageProcessor`` rounds them, which the release uses;
    pixels stay in [0, 1], since the encoder normalizes them itself.

    Parameters
    ----------
    images : torch.Tensor
        ``[batch, height, width, 3]`` in [0, 1].
    size : int
        Side of the result in pixels.

    Returns
    -------
    torch.Tensor
        ``[batch, size, size, 3]`` in [0, 1], in steps of 1/255.
    """
    images = _middle(images)
    height, width = images.shape[1:3]
    short = min(height, width)
    scaled = (size * height // short, size * width // short)
    # Eight bits before and after, as in a picture file.
    pixels = images.movedim(-1, 1).mul(255).round()
    if scaled != (height, width):
        pixels = F.interpolate(pixels, size=scaled, mode="bicubic", antialias=True)
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    square = pixels[:, :, top : top + size, left : left + size]
    return square.round().clamp(0, 255).div(255).movedim(1, -1)


def _middle(images: torch.Tensor) -> torch.Tensor:
    """Return the middle of pictures that are far longer than what the centre square shows, else the pictures."""
    height, width = images.shape[1:3]
    most = LONGEST * min(height, width)
    top, left = max(height - most, 0) // 2, max(width - most, 0) // 2
    return images[:, top : top + most, left : left + most]
