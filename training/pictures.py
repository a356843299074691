"""PNG files of clips and of loss curves, with nothing but torch and the standard library."""

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from .whole import whole_file

_CURVE_COLOURS = ((0.16, 0.36, 0.80), (0.86, 0.26, 0.20), (0.15, 0.60, 0.30), (0.60, 0.30, 0.70))


def write_png(path: Path, image: torch.Tensor) -> None:
    """Write ``[3, height, width]`` in [0, 1] as a PNG file."""
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()
    height, width, _ = pixels.shape
    # Filter type 0 stands before each row.
    rows = torch.cat((torch.zeros(height, 1, dtype=torch.uint8), pixels.view(height, -1)), dim=1)
    data = zlib.compress(bytes(rows.flatten().tolist()), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    with whole_file(path) as partial:
        partial.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def film_strips(clips: Sequence[torch.Tensor], frames: int = 8, zoom: int = 1, gap: int = 2) -> torch.Tensor:
    """Lay out clips one below the other, evenly spaced frames side by side.

    Parameters
    ----------
    clips : sequence of torch.Tensor
        Each ``[frames, 3, height, width]`` in [0, 1].
    frames : int
        Pictures of a strip.
    zoom : int
        Size of a pixel.
    gap : int
        White pixels between pictures.

    Returns
    -------
    torch.Tensor
        ``[3, height, width]``.
    """
    rows = []
    for clip in clips:
        chosen = torch.linspace(0, len(clip) - 1, min(frames, len(clip))).round().long()
        shown = F.interpolate(clip[chosen].detach().float().cpu(), scale_factor=zoom)
        shown = F.pad(shown, (gap, 0, gap, 0), value=1.0)
        row = torch.cat(list(shown), dim=2)
        rows.append(F.pad(row, (0, frames * shown.shape[3] - row.shape[2]), value=1.0))
    return F.pad(torch.cat(rows, dim=1), (0, gap, 0, gap), value=1.0)


def curves(
    values: dict[str, Sequence[tuple[int, float]]], height: int = 240, width: int = 480
) -> torch.Tensor:
    """Draw curves over a common axis, the values in logarithmic scale, each curve in a colour of its own.

    Parameters
    ----------
    values : dict
        Name to ``(step, value)`` pairs, values above 0; drawn in the order given.

    Returns
    -------
    torch.Tensor
        ``[3, height, width]``; grey lines stand at powers of ten.
    """
    image = torch.ones(3, height, width)
    points = [point for curve in values.values() for point in curve]
    if not points:
        return image
    last = max(step for step, _ in points) or 1
    logs = [math.log10(max(value, 1e-9)) for _, value in points]
    low, high = min(logs), max(max(logs), min(logs) + 0.1)

    def row(log: float) -> int:
        return round((high - log) / (high - low) * (height - 5)) + 2

    for power in range(math.ceil(low), math.floor(high) + 1):
        image[:, row(power)] = 0.8
    for index, curve in enumerate(values.values()):
        colour = torch.tensor(_CURVE_COLOURS[index % len(_CURVE_COLOURS)])[:, None]
        before = None
        for step, value in sorted(curve):
            y, x = row(math.log10(max(value, 1e-9))), round(step / last * (width - 5)) + 2
            top, bottom = (y, y) if before is None else sorted((before, y))
            image[:, top : bottom + 1, x] = colour
            before = y
    return image
