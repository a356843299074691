"""What a clip of nano shows, read from its pixels: colours, where the shape is, how far pictures differ."""

from collections import Counter

import torch

from training.scenes import COLOURS

# A shape of fewer pixels than this was lost.
MIN_PIXELS = 24
_NAMES = tuple(COLOURS)
_PALETTE = torch.tensor(list(COLOURS.values()))


def labels(frame: torch.Tensor) -> torch.Tensor:
    """Return the index of the palette colour nearest to each pixel of ``[height, width, 3]`` in [0, 1]."""
    return torch.cdist(frame[..., :3].reshape(-1, 3).float(), _PALETTE).argmin(1).view(frame.shape[:2])


def background(frame: torch.Tensor) -> str:
    """Return the colour of most pixels along the frame's border."""
    label = labels(frame)
    border = torch.cat(
        (label[:3].flatten(), label[-3:].flatten(), label[:, :3].flatten(), label[:, -3:].flatten())
    )
    return _NAMES[border.mode().values]


def shape_colour(frame: torch.Tensor) -> str | None:
    """Return the colour of most pixels that are not of the background's colour, None if there are few."""
    label = labels(frame)
    other = label[label != _NAMES.index(background(frame))]
    if len(other) < MIN_PIXELS:
        return None
    return _NAMES[other.mode().values]


def clip_colour(frames: torch.Tensor) -> str | None:
    """Return the shape's colour in most frames of ``[frames, height, width, 3]``."""
    return Counter(shape_colour(frame) for frame in frames).most_common(1)[0][0]


def centre(frame: torch.Tensor, colour: str) -> torch.Tensor | None:
    """Return the mean position (x, y) in pixels of the pixels of a colour, None if there are few."""
    rows, columns = (labels(frame) == _NAMES.index(colour)).nonzero(as_tuple=True)
    if len(rows) < MIN_PIXELS:
        return None
    return torch.stack((columns.float().mean(), rows.float().mean()))


def has_hole(frames: torch.Tensor, colour: str) -> bool:
    """Tell whether a shape's middle is not of its colour in most frames of ``[frames, height, width, 3]``."""
    hollow = 0
    for frame in frames:
        place = centre(frame, colour)
        if place is not None:
            column, row = place.round().long().tolist()
            hollow += labels(frame)[row, column].item() != _NAMES.index(colour)
    return hollow > len(frames) / 2


def track(frames: torch.Tensor, colour: str) -> torch.Tensor | None:
    """Return the shape's centre in each frame: ``[frames, 2]``; None if it is missing in one."""
    centres = [centre(frame, colour) for frame in frames]
    return None if any(place is None for place in centres) else torch.stack(centres)


def direction(frames: torch.Tensor, colour: str) -> str | None:
    """Return where a shape went from the first to the last frame; None if it went less than three pixels or was lost."""
    first, last = centre(frames[0], colour), centre(frames[-1], colour)
    if first is None or last is None:
        return None
    right, down = (last - first).tolist()
    if max(abs(right), abs(down)) < 3:
        return None
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "down" if down > 0 else "up"


def psnr(picture: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio in decibels of tensors in [0, 1]."""
    error = (picture.float() - reference.float()).square().mean().clamp(min=1e-10)
    return -10 * error.log10().item()


def is_monotone(places: torch.Tensor, slack: float = 0.75) -> bool:
    """Tell whether a track ``[frames, 2]`` goes from its first place to its last, straight, step by step, without turning.

    Parameters
    ----------
    places : torch.Tensor
        Centres in pixels, by frame.
    slack : float
        Pixels that a frame may lie behind the farthest one before it: half a pixel is the measure's own noise. Four times
        as much is allowed to the sides of the straight way, and no step may be over a third of it: that would be a cut.
    """
    way = places[-1] - places[0]
    length = way.norm()
    if length < 3:
        return False
    ahead = way / length
    progress = (places - places[0]) @ ahead
    aside = (places - places[0]) @ torch.stack((-ahead[1], ahead[0]))
    return bool(
        (progress - progress.cummax(0).values >= -slack).all()
        and aside.abs().max() <= 4 * slack
        and progress.diff().max() <= length / 3 + slack
    )


def frame_changes(frames: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference of each frame of ``[frames, height, width, 3]`` to the one before."""
    return (frames[1:] - frames[:-1]).abs().mean(dim=(1, 2, 3))
