"""Make the sample end image and the sample video of ``assets`` from its start image: ``python -m devtools.sample_media``."""

import numpy as np
from PIL import Image

from easyanimate_core.video import write_mp4

from .base_directory import END_IMAGE, START_IMAGE, START_VIDEO

VIDEO_SIDE, VIDEO_FRAMES, VIDEO_FPS = 128, 24, 24
# The boat with its reflection: rows, columns of its left half and its right half, and how far it sails, in pixels.
_TOP, _BOTTOM, _MAST, _HALF_WIDTH, _WAY = 138, 214, 76, 21, 144
# Columns without the boat: hill above the water line, open water below.
_HORIZON, _HILL_X, _WATER_X = 154, 64, 50


def end_image(start: Image.Image) -> Image.Image:
    """Return the start image with the boat at the other shore."""
    pixels = np.asarray(start).copy()
    background = pixels[:, _WATER_X].copy()
    background[:_HORIZON] = pixels[:_HORIZON, _HILL_X]
    rows = np.arange(_TOP, _BOTTOM)[:, None]
    columns = np.arange(_MAST - _HALF_WIDTH, _MAST + _HALF_WIDTH)[None]
    boat = pixels[rows, columns]
    difference = np.abs(boat.astype(int) - background[rows].astype(int)).max(axis=-1, keepdims=True)
    # Above the water line the hill's edges differ too, but the sails are narrow there.
    near = (np.abs(columns - _MAST) <= 0.6 * (rows - _TOP) + 4)[..., None]
    pixels[rows, columns] = np.where(near & (difference > 1), background[rows], boat)
    there = pixels[rows, columns + _WAY]
    pixels[rows, columns + _WAY] = np.where(near & (difference > 8), boat, there)
    return Image.fromarray(pixels)


def video_frames(start: Image.Image) -> list[np.ndarray]:
    """Return a slow zoom to the boat, ``[side, side, 3]`` uint8 each."""
    frames = []
    for index in range(VIDEO_FRAMES):
        share = index / (VIDEO_FRAMES - 1)
        side = start.width * (1 - 0.35 * share)
        left, top = 10 * share, (start.height - side) * 0.8
        box = (left, top, left + side, top + side)
        frame = start.resize((VIDEO_SIDE, VIDEO_SIDE), Image.Resampling.LANCZOS, box=box)
        frames.append(np.asarray(frame))
    return frames


def main() -> None:
    """Write both files."""
    with Image.open(START_IMAGE) as file:
        start = file.convert("RGB")
    end_image(start).save(END_IMAGE, optimize=True)
    write_mp4(START_VIDEO, video_frames(start), VIDEO_FPS, crf=20, overwrite=True)


if __name__ == "__main__":
    main()
