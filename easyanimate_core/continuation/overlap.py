"""The mix of the frames that are there with a segment's own version of them."""

import torch

OVERLAP_MIXES = ("linear", "ease", "cut")


def overlap_weights(overlap: int, mix: str) -> torch.Tensor:
    """Return the new segment's share in each frame of the overlap.

    Parameters
    ----------
    overlap : int
        Number of frames k.
    mix : str
        ``linear``: i / k for frame i, as in the EasyAnimateV3 release (July 2024); ``ease``: 3 t^2 - 2 t^3 at
        t = i / k; ``cut``: 0, so that the frames that are there stay.

    Returns
    -------
    torch.Tensor
        Shape ``[k]``, float32, in [0, 1).

    Raises
    ------
    ValueError
        Another ``mix``.
    """
    if mix not in OVERLAP_MIXES:
        raise ValueError(f"overlap_mix is {mix!r}: choose one of {', '.join(OVERLAP_MIXES)}.")
    ramp = torch.arange(overlap, dtype=torch.float32) / max(overlap, 1)
    if mix == "cut":
        return torch.zeros_like(ramp)
    return ramp * ramp * (3 - 2 * ramp) if mix == "ease" else ramp


def mix_overlap(previous: torch.Tensor, segment: torch.Tensor, mix: str) -> torch.Tensor:
    """Return a segment whose first frames are mixed with the frames that are there.

    Parameters
    ----------
    previous : torch.Tensor
        The frames that were given to the segment, ``[k, H, W, 3]`` in [0, 1].
    segment : torch.Tensor
        The whole segment, ``[L, H, W, 3]`` in [0, 1], L >= k.
    mix : str
        One of :data:`OVERLAP_MIXES`; with ``cut`` the first k frames are ``previous`` bit for bit.

    Returns
    -------
    torch.Tensor
        A new tensor ``[L, H, W, 3]``, float32, on the segment's device.

    Raises
    ------
    ValueError
        Frames of different sizes, more given frames than the segment has, or another ``mix``.
    """
    check_sizes(previous, segment)
    return mix_into(previous, segment.to(torch.float32, copy=True), mix)


def mix_into(previous: torch.Tensor, segment: torch.Tensor, mix: str) -> torch.Tensor:
    """Do the work of :func:`mix_overlap` in the float32 tensor ``segment`` itself, which is returned."""
    for old, frame, weight in zip(previous, segment, overlap_weights(len(previous), mix), strict=False):
        old = old.to(frame)
        frame.copy_(old if mix == "cut" else old * (1 - weight) + frame * weight)
    return segment


def check_sizes(previous: torch.Tensor, segment: torch.Tensor) -> None:
    """Raise ValueError, naming both sizes, unless ``previous`` can be the first frames of ``segment``."""
    shapes = [list(frames.shape) for frames in (previous, segment)]
    if previous.ndim != 4 or segment.ndim != 4 or shapes[0][1:] != shapes[1][1:]:
        raise ValueError(
            f"The given frames have shape {shapes[0]} and the segment {shapes[1]}: both must be "
            "[frames, height, width, 3] of one size, so resize the given frames to the segment."
        )
    if len(previous) > len(segment):
        raise ValueError(
            f"There are more given frames ({shapes[0]}) than the segment has ({shapes[1]}): lower overlap."
        )
