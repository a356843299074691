"""Make the icon and the banner that the Comfy Registry and ComfyUI Manager show: ``python -m devtools.registry_pictures``.

Both are laid out from frames that nano made, taken from the pictures of ``docs/images``.
"""

import sys

from PIL import Image, ImageDraw, ImageFont

from .environment import ROOT

FOLDER = ROOT / "assets"
ICON, BANNER = FOLDER / "icon.png", FOLDER / "banner.png"
ICON_SIZE, BANNER_SIZE = (400, 400), (1260, 540)
# The colours of the workflows' thumbnails.
_GROUND, _INK, _QUIET = (20, 17, 30), (245, 243, 250), (176, 169, 196)
_CLIPS = ROOT / "docs" / "images"
_FRAME, _STEP, _EDGE = 64, 66, 2
# Picture of docs/images and row in it, top to bottom.
_ICON_CLIP = ("nano_continuation", 2)
_STRIPS = (
    ("nano_continuation", 3),
    ("nano_text_to_video", 6),
    ("nano_continuation", 6),
    ("nano_continuation", 8),
)
_COLOURS = 192


def frames_of(picture: str, row: int) -> list[Image.Image]:
    """Return the eight frames of one row of a picture of ``docs/images``."""
    with Image.open(_CLIPS / f"{picture}.png") as sheet:
        sheet = sheet.convert("RGB")
    top = _EDGE + row * _STEP
    lefts = (_EDGE + column * _STEP for column in range(8))
    return [sheet.crop((left, top, left + _FRAME, top + _FRAME)) for left in lefts]


def rounded(frame: Image.Image, side: int, radius: int) -> Image.Image:
    """Return a frame at another size, its corners rounded by transparency."""
    large = frame.resize((side, side), Image.Resampling.BICUBIC).convert("RGBA")
    mask = Image.new("L", (side * 4, side * 4))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, side * 4 - 1, side * 4 - 1), radius * 4, 255)
    large.putalpha(mask.resize((side, side), Image.Resampling.LANCZOS))
    return large


def icon() -> Image.Image:
    """Return three frames of one clip, the latest in front: 400 x 400 pixels."""
    picture = Image.new("RGBA", ICON_SIZE, _GROUND)
    frames = frames_of(*_ICON_CLIP)
    side, step, margin, border = 216, 78, 14, 8
    for index, frame in enumerate(frames[moment] for moment in (0, 2, 5)):
        left, top = margin + index * step, ICON_SIZE[1] - margin - side - index * step
        around = (left - border, top - border, left + side + border - 1, top + side + border - 1)
        ImageDraw.Draw(picture).rounded_rectangle(around, 32, _GROUND)
        picture.alpha_composite(rounded(frame, side, 24), (left, top))
    return picture.convert("RGB")


def banner() -> Image.Image:
    """Return the name beside strips of frames that run out of the picture: 1260 x 540 pixels."""
    picture = Image.new("RGBA", BANNER_SIZE, _GROUND)
    side, gap = 120, 8
    for number, clip in enumerate(_STRIPS):
        for index, frame in enumerate(frames_of(*clip)):
            left, top = 712 - number * 48 + index * (side + gap), 18 + number * (side + gap)
            if left < BANNER_SIZE[0]:
                picture.alpha_composite(rounded(frame, side, 12), (left, top))
    pen = ImageDraw.Draw(picture)
    pen.text((56, 222), "EasyAnimateV3", _INK, ImageFont.load_default(66), anchor="lm")
    small = ImageFont.load_default(27)
    for index, line in enumerate(("Native video nodes for ComfyUI:", "from text, pictures and videos")):
        pen.text((60, 296 + index * 40), line, _QUIET, small, anchor="lm")
    return picture.convert("RGB")


def main() -> int:
    """Write both."""
    for picture, path in ((icon(), ICON), (banner(), BANNER)):
        few = picture.quantize(_COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
        print(f"{path.relative_to(ROOT).as_posix()}: {path.stat().st_size / 1024:.0f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
