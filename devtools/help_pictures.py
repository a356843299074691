"""Make the pictures of the help pages: ``python -m devtools.help_pictures [NODE ...]``.

Each shows a node among those that it is connected with, as ComfyUI draws them: cut out of a shipped workflow, or built
here where no workflow holds the node.
"""

import io
import json
import sys
from dataclasses import dataclass
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from . import base_directory
from .browser import OPTIONS, find_chromium
from .environment import DEV, ROOT
from .host_server import HostServer

FOLDER = ROOT / "web" / "docs" / "images"
WORKFLOWS = ROOT / "workflows"
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.NodeBadge.NodeSourceBadgeMode": "None"}
VIEWPORT = {"width": 1500, "height": 1500}
MOST_COLOURS, FEWEST_COLOURS = 256, 16
MOST_BYTES = 60_000

# Columns of node ids, from left to right and from above; a number below 0 leaves so much room.
Columns = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Built:
    """A graph of our own: ``nodes`` has the type and widget values of each id, ``links`` names outputs and inputs."""

    nodes: dict[int, tuple[str, dict[str, Any]]]
    links: tuple[tuple[int, int, int, str], ...]


SINGLE_FILES = Built(
    {
        1: (
            "EasyAnimateV3TransformerLoader",
            {"transformer_name": "EasyAnimateV3-XL-2-InP-512x512.safetensors"},
        ),
        2: ("EasyAnimateV3VAELoader", {"vae_name": "EasyAnimateV3_vae.safetensors"}),
        3: ("CLIPLoader", {"clip_name": "t5xxl_fp16.safetensors", "type": "pixart"}),
        4: ("EasyAnimateV3TextEncode", {"text": "A red panda climbs a tree."}),
        5: ("EasyAnimateV3TextEncode", {"text": "blurry, deformed"}),
        6: ("EasyAnimateV3ImageToVideo", {}),
        7: ("EasyAnimateV3Sampler", {"control_after_generate": "fixed"}),
        8: ("EasyAnimateV3VAEDecode", {}),
    },
    (
        (3, 0, 4, "clip"),
        (3, 0, 5, "clip"),
        (4, 0, 6, "positive"),
        (5, 0, 6, "negative"),
        (2, 0, 6, "vae"),
        (1, 0, 7, "model"),
        (6, 0, 7, "positive"),
        (6, 1, 7, "negative"),
        (6, 2, 7, "latent_image"),
        (7, 0, 8, "samples"),
        (2, 0, 8, "vae"),
    ),
)
FITTED = Built(
    {
        1: ("LoadImage", {"image": "start_image.png"}),
        2: ("EasyAnimateV3FitImage", {}),
        3: ("EasyAnimateV3ImageEncode", {}),
        4: ("EasyAnimateV3ImageToVideo", {}),
    },
    ((1, 0, 2, "image"), (2, 0, 3, "image"), (2, 0, 4, "start_image"), (3, 0, 4, "clip_vision_output")),
)
CUSTOM_SAMPLER = Built(
    {
        1: ("EasyAnimateV3Loader", {}),
        2: ("EasyAnimateV3ImageToVideo", {"width": 64, "height": 64, "length": 16}),
        3: ("KSamplerSelect", {"sampler_name": "euler"}),
        4: ("EasyAnimateV3Sigmas", {"steps": 20}),
        5: ("SamplerCustom", {"cfg": 3, "noise_seed": 43, "control_after_generate": "fixed"}),
        6: ("EasyAnimateV3VAEDecode", {}),
    },
    (
        (1, 0, 5, "model"),
        (1, 2, 2, "vae"),
        (2, 0, 5, "positive"),
        (2, 1, 5, "negative"),
        (2, 2, 5, "latent_image"),
        (3, 0, 5, "sampler"),
        (4, 0, 5, "sigmas"),
        (5, 0, 6, "samples"),
    ),
)
CONTINUED = Built(
    {
        1: ("GetVideoComponents", {}),
        2: ("ImageFromBatch", {"batch_index": 12, "length": 4}),
        3: ("EasyAnimateV3VAEDecode", {}),
        4: ("EasyAnimateV3BlendOverlap", {}),
        5: ("EasyAnimateV3JoinSegments", {}),
        6: ("EasyAnimateV3SaveVideo", {"fps": 8}),
    },
    (
        (1, 0, 2, "image"),
        (2, 0, 4, "previous"),
        (3, 0, 4, "next"),
        (4, 0, 5, "segment_0000"),
        (1, 0, 5, "video"),
        (5, 0, 6, "images"),
    ),
)

PICTURES: dict[str, tuple[str | Built, Columns]] = {
    "EasyAnimateV3Loader": ("image_to_video", ((1,), (-110, 3, 7), (-70, 8), (9,))),
    "EasyAnimateV3TransformerLoader": (SINGLE_FILES, ((3, 2, 1), (4, 5), (6,), (7,))),
    "EasyAnimateV3VAELoader": (SINGLE_FILES, ((2, 1), (-70, 6), (-70, 7), (8,))),
    "EasyAnimateV3LoraLoader": ("lora", ((1,), (3,), (4, 7))),
    "EasyAnimateV3TextEncode": ("text_to_video", ((1,), (3, 4), (5,))),
    "EasyAnimateV3ImageEncode": ("image_to_video", ((1, 5), (6,), (-220, 7), (8,))),
    "EasyAnimateV3ResizeToBucket": ("image_to_video", ((5,), (6,), (-220, 7), (8,))),
    "EasyAnimateV3FitImage": (FITTED, ((1,), (2,), (-150, 3), (4,))),
    "EasyAnimateV3ImageToVideo": ("image_to_video", ((6,), (3, 4, 7), (8,), (9,))),
    "EasyAnimateV3Sampler": ("image_to_video", ((1,), (-70, 8), (9,), (10,))),
    "EasyAnimateV3Sigmas": (CUSTOM_SAMPLER, ((1,), (-70, 2, 3, 4), (5,), (6,))),
    "EasyAnimateV3VAEEncode": ("video_to_video", ((1, 8), (-110, 9, 10), (-70, 11), (12,))),
    "EasyAnimateV3VAEDecode": ("image_to_video", ((1,), (-110, 9), (10,), (11,))),
    "EasyAnimateV3ExtendVideo": ("extend_video", ((1, 5), (-130, 3, 6), (7,), (8,))),
    "EasyAnimateV3BlendOverlap": (CONTINUED, ((1, 3), (-70, 2), (-70, 4), (5,))),
    "EasyAnimateV3JoinSegments": (CONTINUED, ((1, 3), (-70, 4), (5,), (6,))),
    "EasyAnimateV3SaveVideo": ("image_to_video", ((9,), (10,), (11,))),
    "EasyAnimateV3LongVideo": ("long_video", ((1, 4), (-130, 3, 5), (6,))),
}

BUILD = """async ([nodes, links]) => {
  await app.loadGraphData({ version: 0.4, nodes: [], links: [], last_node_id: 0, last_link_id: 0 })
  for (const [id, [type, values]] of Object.entries(nodes)) {
    const node = LiteGraph.createNode(type)
    node.id = Number(id)
    app.graph.add(node)
    for (const widget of node.widgets ?? [])
      if (widget.name in values)
        widget.value = values[widget.name]
  }
  for (const [from, output, to, input] of links) {
    const node = app.graph.getNodeById(to)
    app.graph.getNodeById(from).connect(output, node, node.findInputSlot(input))
  }
}"""

# Sets the nodes of the columns beside each other, drops the others, and gives the size of the whole.
ARRANGE = """([columns, type]) => {
  const [title, gap, line, margin] = [LiteGraph.NODE_TITLE_HEIGHT, 56, 30, 20]
  const widths = {
    EasyAnimateV3Loader: 330, EasyAnimateV3TransformerLoader: 370, EasyAnimateV3VAELoader: 310, CLIPLoader: 310,
    EasyAnimateV3ImageToVideo: 300, EasyAnimateV3ResizeToBucket: 300, EasyAnimateV3ExtendVideo: 330,
    EasyAnimateV3LongVideo: 420,
  }
  const kept = columns.flat().filter((id) => id > 0)
  for (const group of [...app.graph.groups])
    app.graph.remove(group)
  for (const node of [...app.graph.nodes])
    if (!kept.includes(node.id))
      app.graph.remove(node)
  let [x, bottom] = [margin, 0]
  for (const column of columns) {
    let [y, width] = [margin, 0]
    for (const id of column) {
      if (id < 0) {
        y -= id
        continue
      }
      const node = app.graph.getNodeById(id)
      const texts = (node.widgets ?? []).filter((widget) => widget.element?.tagName === 'TEXTAREA')
      node.setSize([widths[node.type] ?? 275, node.computeSize()[1] + texts.length * 40])
      node.pos = [x, y + title]
      node.color = node.type === type ? '#1a5a8a' : undefined
      node.bgcolor = node.type === type ? '#226fa8' : undefined
      y += title + node.size[1] + line
      width = Math.max(width, node.size[0])
    }
    x += width + gap
    bottom = Math.max(bottom, y - line)
  }
  return [x - gap + margin, bottom + margin]
}"""

SHOW = """(scale) => {
  app.canvas.deselectAll()
  app.canvas.ds.scale = scale
  app.canvas.ds.offset = [0, 0]
  app.canvas.background_image = null
  app.canvas.setDirty(true, true)
}"""
# Menus, side bar and news lie over the graph; the text boxes of nodes do too.
STYLE = """
body * { visibility: hidden !important }
#graph-canvas, .dom-widget, .dom-widget * { visibility: visible !important }
"""
PICTURES_SHOWN = (
    "() => app.graph.nodes.every((node) => node.type !== 'LoadImage' || node.imgs?.[0]?.naturalWidth)"
)


def load(page: Page, source: str | Built) -> None:
    """Put a workflow, or a graph of our own, on the canvas."""
    if isinstance(source, str):
        workflow = json.loads((WORKFLOWS / f"{source}.json").read_text(encoding="utf-8"))
        page.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)
    else:
        page.evaluate(BUILD, [source.nodes, source.links])


def photograph(page: Page, node: str) -> Image.Image:
    """Return the picture of a node among its neighbours."""
    source, columns = PICTURES[node]
    load(page, source)
    page.wait_for_function(PICTURES_SHOWN)
    width, height = page.evaluate(ARRANGE, [columns, node])
    scale = min(1200 / width, 1200 / height, 1.0)
    page.evaluate(SHOW, scale)
    # The canvas and the text boxes over it follow with the next frames.
    page.wait_for_timeout(700)
    clip = {"x": 0, "y": 0, "width": round(width * scale), "height": round(height * scale)}
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def small_png(picture: Image.Image) -> bytes:
    """Return the picture as a palette PNG of at most 60 KB, with as many colours as that allows."""
    colours = MOST_COLOURS
    while True:
        file = io.BytesIO()
        quantized = picture.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        quantized.save(file, "PNG", optimize=True)
        if file.tell() <= MOST_BYTES or colours <= FEWEST_COLOURS:
            return file.getvalue()
        colours //= 2


def main(names: list[str]) -> int:
    """Make the pictures of these nodes, or all."""
    browser_path = find_chromium()
    if browser_path is None:
        print("There is no Chromium or Chrome on PATH, which draws the pictures.", file=sys.stderr)
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    base = base_directory.prepare(DEV / "help_pictures", link_pack=True)
    with HostServer(base, log=base / "server.log") as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=list(OPTIONS))
        page = browser.new_page(viewport=VIEWPORT, locale="en-US")
        page.set_default_timeout(60_000)
        server.post("/settings", SETTINGS)
        page.goto(server.url)
        page.wait_for_function("() => window.LiteGraph?.registered_node_types?.EasyAnimateV3SaveVideo")
        page.add_style_tag(content=STYLE)
        for node in names or PICTURES:
            content = small_png(photograph(page, node))
            (FOLDER / f"{node}.png").write_bytes(content)
            print(f"{node}: {len(content):,} bytes")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
