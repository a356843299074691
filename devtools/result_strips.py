"""Make the pictures of docs/gallery.md: ``python -m devtools.result_strips [NAME ...]``.

Runs the shipped workflows with nano in a real ComfyUI and lays frames of what they save out in rows, below what
they were given. Seeds are fixed in the workflows. Each picture stores what it was made from (:func:`origin`), so that a
test sees when it is old.
"""

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from . import base_directory, workflows
from .environment import DEV, ROOT
from .host_server import HostServer
from .thumbnails import frames_of

FOLDER = ROOT / "docs" / "images"
BASE = DEV / "result_strips"
COLUMNS, SIDE, GAP, GUTTER = 8, 88, 4, 76
_PAPER, _INK = (255, 255, 255), (60, 60, 67)
ORIGIN_KEY = "made from"
_WEIGHTS = (ROOT / "checkpoints", ROOT / "assets" / "loras")
_SAMPLES = (base_directory.START_IMAGE, base_directory.END_IMAGE, base_directory.START_VIDEO)
_EMPTY, _LINE = (240, 240, 243), (205, 205, 210)

Frames = list[Image.Image]


@dataclass
class Row:
    """Pictures side by side behind a short label; None leaves a place empty."""

    label: str
    pictures: list[Image.Image | None]


class Runs:
    """Runs workflows on a server, each with some of its nodes' values changed."""

    def __init__(self, server: HostServer) -> None:
        self.server = server
        self._info = server.object_info()

    def frames(self, name: str, changes: dict[str, dict[str, Any]] | None = None) -> Frames:
        """Return the frames, or the pictures, that a workflow saves.

        Parameters
        ----------
        name : str
            Of a file in ``workflows/``, without its ending.
        changes : dict, optional
            Node type -> input -> value, in place of what the file has.
        """
        path = ROOT / "workflows" / f"{name}.json"
        prompt = workflows.to_api(json.loads(path.read_text(encoding="utf-8")), self._info)
        for kind, values in (changes or {}).items():
            for node_id in workflows.nodes_of(prompt, kind):
                prompt[node_id]["inputs"].update(values)
        with self.server.submit(prompt, {}) as run:
            outputs = run.wait(600)["outputs"]
        saved = [file for suffix in (".mp4", ".png") for file in workflows.saved_files(outputs, suffix)]
        output = self.server.base / "output"
        return [frame for file in saved for frame in frames_of(output / file["subfolder"] / file["filename"])]


def origin(name: str) -> str:
    """Return a hash of what a strip shows: its workflow's nodes, values and links, the shipped weights and samples."""
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    # Where a node stands and what a note says change nothing.
    nodes = [
        [node["id"], node["type"], node["mode"], node.get("widgets_values")]
        for node in workflow["nodes"]
        if node["type"] != "MarkdownNote"
    ]
    found = hashlib.sha256(json.dumps([sorted(nodes, key=lambda node: node[0]), workflow["links"]]).encode())
    weights = [path for folder in _WEIGHTS for path in folder.rglob("*.safetensors")]
    for path in sorted((*weights, *_SAMPLES), key=Path.as_posix):
        found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def stored_origin(path: Path) -> str | None:
    """Return the hash that a strip was saved with."""
    with Image.open(path) as picture:
        return picture.info.get(ORIGIN_KEY)


def places(count: int, columns: int = COLUMNS) -> list[int]:
    """Return the indices of frames that stand in the columns, evenly spaced from the first to the last."""
    if count <= columns:
        return list(range(count))
    return [round(column * (count - 1) / (columns - 1)) for column in range(columns)]


def row(label: str, frames: Frames, of: int | None = None) -> Row:
    """Return a row of a clip; of a clip of ``of`` frames, of which ``frames`` are the first ones, where given."""
    count = of or len(frames)
    return Row(label, [frames[index] if index < len(frames) else None for index in places(count)])


def ends(start: Image.Image, end: Image.Image | None = None) -> Row:
    """Return the row of a given first picture, and of a last one."""
    return Row("given", [start, *[None] * (COLUMNS - 2), end])


def strip(rows: list[Row]) -> Image.Image:
    """Lay out rows below one another."""
    columns = max(len(line.pictures) for line in rows)
    size = (GUTTER + columns * (SIDE + GAP), GAP + len(rows) * (SIDE + GAP))
    picture = Image.new("RGB", size, _PAPER)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for index, line in enumerate(rows):
        top = GAP + index * (SIDE + GAP)
        pen.text((GUTTER - 10, top + SIDE / 2), line.label, _INK, font, anchor="rm", align="right")
        for column, frame in enumerate(line.pictures):
            place = (GUTTER + column * (SIDE + GAP), top)
            edges = (*place, place[0] + SIDE - 1, top + SIDE - 1)
            if frame is None:
                pen.rectangle(edges, _EMPTY)
            else:
                picture.paste(frame.resize((SIDE, SIDE), Image.Resampling.BICUBIC), place)
                pen.rectangle(edges, outline=_LINE)
    return picture


def _sample(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def _text(name: str) -> Callable[[Runs], list[Row]]:
    return lambda runs: [row("result", runs.frames(name))]


def _image(name: str) -> Callable[[Runs], list[Row]]:
    return lambda runs: [ends(_sample(base_directory.START_IMAGE)), row("result", runs.frames(name))]


def _first_last(runs: Runs) -> list[Row]:
    given = ends(_sample(base_directory.START_IMAGE), _sample(base_directory.END_IMAGE))
    return [given, row("result", runs.frames("first_last_frame"))]


def _extended(runs: Runs) -> list[Row]:
    given, frames = frames_of(base_directory.START_VIDEO), runs.frames("extend_video")
    return [row("given", given, of=len(frames)), row("result", frames)]


def _redrawn(runs: Runs) -> list[Row]:
    frames = runs.frames("video_to_video")
    return [row("given", frames_of(base_directory.START_VIDEO)[: len(frames)]), row("result", frames)]


def _pictures(runs: Runs) -> list[Row]:
    return [
        row("result", runs.frames("text_to_image", {"EasyAnimateV3ImageToVideo": {"batch_size": COLUMNS}}))
    ]


def _rings(runs: Runs) -> list[Row]:
    without = runs.frames("lora", {"EasyAnimateV3LoraLoader": {"strength_model": 0.0}})
    return [row("LoRA off", without), row("LoRA on", runs.frames("lora"))]


STRIPS: dict[str, Callable[[Runs], list[Row]]] = {
    "text_to_video": _text("text_to_video"),
    "image_to_video": _image("image_to_video"),
    "first_last_frame": _first_last,
    "extend_video": _extended,
    "long_video": _image("long_video"),
    "text_to_image": _pictures,
    "video_to_video": _redrawn,
    "lora": _rings,
    "text_to_video_stock": _text("text_to_video_stock"),
    "image_to_video_stock": _image("image_to_video_stock"),
}


def main(arguments: list[str] | None = None) -> int:
    """Make the strips that are asked for, or all."""
    parser = argparse.ArgumentParser(prog="devtools.result_strips", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(STRIPS))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the PNG files go")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(STRIPS):
        parser.error(f"there is no strip {sorted(unknown)[0]}")
    # An earlier run that was broken off may have left an unfinished long video, which would be gone on with.
    shutil.rmtree(BASE / "output", ignore_errors=True)
    base = base_directory.prepare(BASE, link_pack=True)
    for name in options.names or STRIPS:
        # A server for each, so that one made alone is the same as one made with all: what ran
        # before in a server can change last digits.
        with HostServer(base, log=base / "server.log") as server:
            picture = strip(STRIPS[name](Runs(server)))
        path = options.folder / f"result_{name}.png"
        text = PngImagePlugin.PngInfo()
        text.add_text(ORIGIN_KEY, origin(name))
        picture.save(path, optimize=True, pnginfo=text)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
