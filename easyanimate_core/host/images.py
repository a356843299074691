"""ComfyUI images of any size and channel count as frames of a clip."""

from collections.abc import Iterator

import comfy.utils
import numpy as np
import torch

from .inputs import kind
from .main_memory import require_main_memory

# No picture comes near, and what does makes NaN in the models.
_HUGE = 1e9


def rgb_frames(images: torch.Tensor, name: str, finite: bool = True) -> torch.Tensor:
    """Return ``[frames, height, width, 3]`` in float32 and [0, 1] from a colour, RGBA or grey image or batch.

    Parameters
    ----------
    images : torch.Tensor
        ``[height, width, channels]``, ``[frames, height, width]`` (a mask) or ``[frames, height, width, channels]``
        with 1, 3 or 4 channels; alpha is dropped, grey is repeated.
    name : str
        The input that an error names.
    finite : bool
        Whether to refuse NaN, infinity and what is next to it.

    Raises
    ------
    ValueError
        If there is no frame, another number of axes or channels, or values are no decimals.
    """
    if not isinstance(images, torch.Tensor):
        raise ValueError(
            f"{name} is {kind(images)}, and no image: connect the output of a node that loads or makes images."
        )
    if images.ndim == 3 and images.shape[-1] in (3, 4):
        images = images[None]
    elif images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or 0 in images.shape:
        raise ValueError(
            f"{name} has shape {list(images.shape)}, but an image is [frames, height, width, channels] with 1, 3 or 4 "
            "channels; connect the output of a node that loads or makes images."
        )
    if not images.is_floating_point() and images.dtype != torch.bool:
        raise ValueError(
            f"{name} holds {str(images.dtype).removeprefix('torch.')} numbers, but an image holds decimals from 0 to 1: "
            "connect the output of a node that loads or makes images."
        )
    frames = images.expand(*images.shape[:-1], 3) if images.shape[-1] == 1 else images[..., :3]
    frames = frames.detach().float()
    if finite and not is_finite(frames):
        raise ValueError(
            f"{name} holds NaN, infinite or huge values, which would spoil the whole video: look at the node that it comes "
            "from."
        )
    return frames


def is_finite(frames: torch.Tensor) -> bool:
    """Tell whether frames hold neither NaN nor values next to infinity."""
    # One by one, since PyTorch copies what lies in memory with gaps, as the colours of RGBA do.
    return all(abs(float(value)) < _HUGE for frame in frames for value in frame.aminmax())


def fit_frames(images: torch.Tensor, width: int, height: int, name: str) -> torch.Tensor:
    """Return RGB frames of ``width`` x ``height``: scaled to cover it, then cut around the centre.

    Frames that have this size already are returned bit for bit.
    """
    frames = rgb_frames(images, name)
    if frames.shape[1:3] == (height, width):
        return frames
    _require_room(len(frames), width, height)
    frames = _thick_enough(frames, width / height)
    scaled = comfy.utils.common_upscale(frames.movedim(-1, 1), width, height, "lanczos", "center")
    return scaled.movedim(1, -1).clamp(0, 1)


def stretch_frames(images: torch.Tensor, width: int, height: int, name: str) -> torch.Tensor:
    """Return RGB frames of ``width`` x ``height``, the sides scaled each on its own as the release does."""
    frames = rgb_frames(images, name)
    if frames.shape[1:3] == (height, width):
        return frames
    _require_room(len(frames), width, height)
    scaled = comfy.utils.common_upscale(frames.movedim(-1, 1), width, height, "lanczos", "disabled")
    return scaled.movedim(1, -1).clamp(0, 1)


def _require_room(count: int, width: int, height: int) -> None:
    # The host keeps the scaled frames in float32 once each and once in a row.
    needed = count * width * height * 3 * 4 * 2
    require_main_memory(needed, f"scale {count} frames to {width}x{height} pixels", "choose a smaller size")


def _thick_enough(frames: torch.Tensor, aspect: float) -> torch.Tensor:
    """Return the middle pixels of frames so long that not one would be left of them at ``aspect``, else the frames."""
    height, width = frames.shape[1:3]
    if height * aspect <= 1 < width:
        return frames[:, :, width // 2 : width // 2 + 1]
    if width / aspect <= 1 < height:
        return frames[:, height // 2 : height // 2 + 1]
    return frames


def eight_bit(frames: torch.Tensor) -> Iterator[np.ndarray]:
    """Yield each frame of ``[frames, height, width, 3]`` in [0, 1] as uint8, one at a time to keep memory low.

    NaN becomes black.
    """
    for frame in frames:
        yield frame.mul(255).round().nan_to_num(0.0).clamp(0, 255).to(device="cpu", dtype=torch.uint8).numpy()
