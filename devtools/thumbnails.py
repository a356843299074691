"""Make the pictures that ComfyUI's template browser shows: ``python -m devtools.thumbnails [NAME ...]``.

Runs every workflow with nano and lays its frames out in reading order over the workflow's name. Those of the released
checkpoints get nano's values for it, and the prompt of the workflow that they are like.
"""

import json
import sys
from pathlib import Path
from typing import Any

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
    "text_to_video_released": "Text to video, released model",
    "image_to_video_released": "Image to video, released model",
}
RELEASED = "_released"
# What the workflows of the released checkpoints have other values for.
NANO_VALUES = {"checkpoint", "width", "height", "length", "base", "steps", "cfg", "fps"}


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


def read(name: str) -> dict[str, Any]:
    """Return the content of a workflow file."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def prompt_of(name: str, object_info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a workflow as a prompt that nano can run."""
    prompt = workflows.to_api(read(name), object_info)
    if not name.endswith(RELEASED):
        return prompt
    like = workflows.to_api(read(name.removesuffix(RELEASED)), object_info)
    values = {
        key: value
        for node in like.values()
        for key, value in node["inputs"].items()
        if key in NANO_VALUES and not isinstance(value, list)
    }
    prompt = workflows.with_checkpoint(prompt, values["checkpoint"], values)
    texts = [workflows.nodes_of(graph, "EasyAnimateV3TextEncode") for graph in (prompt, like)]
    for ours, theirs in zip(*texts, strict=True):
        prompt[ours]["inputs"]["text"] = like[theirs]["inputs"]["text"]
    return prompt


def result_of(server: HostServer, name: str) -> Path:
    """Run a workflow and return its file."""
    prompt = prompt_of(name, server.object_info())
    with server.submit(prompt, {}) as run:
        entry = run.wait_for_history()
    files = [file for suffix in (".mp4", ".png") for file in workflows.saved_files(entry["outputs"], suffix)]
    return server.base / "output" / files[0]["subfolder"] / files[0]["filename"]


def main(names: list[str]) -> int:
    """Make the pictures of these workflows, or of all."""
    base = base_directory.prepare(DEV / "thumbnails", link_pack=True)
    with HostServer(base, log=base / "server.log") as server:
        for name in names or TITLES:
            picture = sheet(frames_of(result_of(server, name)), TITLES[name])
            picture.save(FOLDER / f"{name}.jpg", quality=88)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
