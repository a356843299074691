"""Make the pictures that ComfyUI's template browser shows: ``python -m devtools.thumbnails``.

Runs every workflow as shipped, with nano, and lays its frames out in reading order over the workflow's name.
"""

import json
import sys
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

from . import base_directory, workflows
from .environment import DEV, ROOT
from .host_server import HostServer

FOLDER = ROOT / "workflows"
SIDE, BAR = 400, 52
_GROUND, _INK = (20, 17, 30), (245, 243, 250)
_GAP = 4
TITLES = {
    "text_to_video": "Text to video",
    "text_to_video_stock": "Text to video, KSampler",
    "image_to_video": "Image to video",
    "image_to_video_stock": "Image to video, KSampler",
    "first_last_frame": "First and last frame",
    "extend_video": "Extend a video",
    "long_video": "Long video",
    "text_to_image": "Text to image",
    "video_to_video": "Video to video",
    "lora": "Text to video with a LoRA",
}


def frames_of(path: Path) -> list[Image.Image]:
    """Return all frames of a video, or the one of a picture."""
    if path.suffix != ".mp4":
        return [Image.open(path).convert("RGB")]
    with av.open(path) as video:
        return [frame.to_image() for frame in video.decode(video=0)]


def sheet(frames: list[Image.Image], title: str) -> Image.Image:
    """Lay out up to nine frames, evenly spaced from the first to the last, over a title: 400 x 400 pixels."""
    rows = 1 if len(frames) == 1 else 3
    count = rows * rows
    shown = [frames[round(index * (len(frames) - 1) / max(count - 1, 1))] for index in range(count)]
    side = (SIDE - BAR - _GAP * (rows + 1)) // rows
    picture = Image.new("RGB", (SIDE, SIDE), _GROUND)
    left = (SIDE - rows * side - (rows - 1) * _GAP) // 2
    for index, frame in enumerate(shown):
        row, column = divmod(index, rows)
        place = (left + column * (side + _GAP), _GAP + row * (side + _GAP))
        picture.paste(frame.resize((side, side), Image.Resampling.BICUBIC), place)
    pen = ImageDraw.Draw(picture)
    pen.text((SIDE / 2, SIDE - BAR / 2), title, _INK, ImageFont.load_default(20), anchor="mm")
    return picture


def result_of(server: HostServer, name: str) -> Path:
    """Run a workflow and return its file."""
    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    prompt = workflows.to_api(workflow, server.object_info())
    with server.submit(prompt, {}) as run:
        entry = run.wait_for_history()
    files = [file for suffix in (".mp4", ".png") for file in workflows.saved_files(entry["outputs"], suffix)]
    return server.base / "output" / files[0]["subfolder"] / files[0]["filename"]


def main() -> int:
    """Make all pictures."""
    base = base_directory.prepare(DEV / "thumbnails", link_pack=True)
    with HostServer(base, log=base / "server.log") as server:
        for name, title in TITLES.items():
            picture = sheet(frames_of(result_of(server, name)), title)
            picture.save(FOLDER / f"{name}.jpg", quality=88)
    return 0


if __name__ == "__main__":
    sys.exit(main())
