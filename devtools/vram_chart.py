"""The chart of docs/vram.md: what a card needs for sampling, over the length of the clip."""

from .svg import INK, MUTED, Drawing, Tint
from .vram_count import GB, SIZES, needed, plans

WIDTH, HEIGHT = 1120, 640
_TOP, _BOTTOM, _LEFT, _GAP, _PANEL = 116, 502, 70, 90, 450
_FIRST, _LAST, _MOST = 0, 144, 26
_COLOURS = {512: "#0a7d55", 768: "#b8560f", 960: "#0b62b8"}
_DASHES = {"whole": "", "chunks": "7 4", "parked": "2 3"}
_LEGEND = {
    "whole": "whole: all tokens at once",
    "chunks": "chunks of 8192 tokens",
    "parked": "chunks, U-ViT skips in main memory",
}
_CARDS = (8, 12, 16, 24)


def _y(gigabytes: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * gigabytes / _MOST


def _panel(drawing: Drawing, left: float, rows: int, title: str) -> None:
    """Draw the curves of one or of two sides of the guidance."""

    def x(frames: float) -> float:
        return left + _PANEL * (frames - _FIRST) / (_LAST - _FIRST)

    base = needed("bf16", 0) / GB
    drawing.rect(left, _y(base), _PANEL, _BOTTOM - _y(base), Tint("#eef0f3", "none"), radius=0)
    for gigabytes in range(0, _MOST + 1, 2):
        drawing.path([(left, _y(gigabytes)), (left + _PANEL, _y(gigabytes))], colour="#e4e7eb", thick=1)
        drawing.text(left - 8, _y(gigabytes) + 4, str(gigabytes), size=12, colour=MUTED, anchor="end")
    for frames in range(0, _LAST + 1, 24):
        drawing.path([(x(frames), _BOTTOM), (x(frames), _BOTTOM + 5)], colour=MUTED, thick=1)
        drawing.text(x(frames), _BOTTOM + 20, str(frames), size=12, colour=MUTED, anchor="middle")
    for card in _CARDS:
        drawing.path([(left, _y(card)), (left + _PANEL, _y(card))], colour="#a40e26", thick=1.2)
        drawing.text(left + 8, _y(card) - 5, f"{card} GB card", size=12, colour="#a40e26", halo=True)
    drawing.text(left + 8, _y(base) + 18, "weights in bf16", size=12, colour=MUTED)
    drawing.text(left + 8, _y(base) + 34, f"and what stays free: {base:.1f} GB", size=12, colour=MUTED)
    drawing.path([(left, _TOP), (left, _BOTTOM), (left + _PANEL, _BOTTOM)], colour=MUTED)
    drawing.text(left, _TOP - 14, title, size=15, bold=True)
    drawing.text(
        left + _PANEL / 2, _BOTTOM + 40, "frames of the clip", size=13, colour=MUTED, anchor="middle"
    )
    for resolution, size in SIZES.items():
        lengths = range(8, _LAST + 1, 8)
        found = {frames: plans(*size, frames, rows) for frames in lengths}
        for plan, dash in _DASHES.items():
            # ComfyUI is told of parked skips for one side alone.
            if plan == "parked" and rows > 1:
                continue
            points = [
                (x(frames), _y(needed("bf16", found[frames][plan].bytes) / GB))
                for frames in lengths
                if plan in found[frames]
            ]
            drawing.path(points, colour=_COLOURS[resolution], thick=2.2, dash=dash)


def chart() -> str:
    """Return the SVG file's text."""
    drawing = Drawing(WIDTH, HEIGHT, "GPU memory for sampling over the length of the clip, counted")
    drawing.text(_LEFT - 42, 38, "GPU memory for sampling, counted, in GB (10⁹ bytes)", size=19, bold=True)
    drawing.text(
        _LEFT - 42,
        62,
        "bf16 weights + activations + what ComfyUI keeps free; nothing of this was measured",
        size=13,
        colour=MUTED,
    )
    _panel(drawing, _LEFT, 1, "One side of the guidance at a time")
    _panel(drawing, _LEFT + _PANEL + _GAP, 2, "Both sides in one forward")
    top = HEIGHT - 62
    for index, (resolution, (width, height)) in enumerate(SIZES.items()):
        left = _LEFT + index * 320
        drawing.path([(left, top), (left + 34, top)], colour=_COLOURS[resolution], thick=4)
        drawing.text(left + 42, top + 5, f"{width}x{height} (checkpoint {resolution})", size=13)
    for index, (plan, words) in enumerate(_LEGEND.items()):
        left = _LEFT + index * 320
        drawing.path([(left, top + 30), (left + 34, top + 30)], colour=INK, thick=2.2, dash=_DASHES[plan])
        drawing.text(left + 42, top + 35, words, size=13)
    return str(drawing)
