"""The shipped workflows in the real user interface: Chromium on a real server, clicked as a user would."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from test_workflows import (
    NAMES,
    NANO,
    RELEASED_NAMES,
    SIZE,
    TITLE_HEIGHT,
    inside,
    load,
    models_of,
    overlap,
)

from devtools.base_directory import PACK_NAME
from devtools.browser import OPTIONS, find_chromium
from devtools.environment import DEV

CHROMIUM = find_chromium()
if CHROMIUM is None:
    pytest.skip(
        "no Chromium or Chrome on PATH, so the user interface was not tested", allow_module_level=True
    )

# No dialog for first-time users over everything, and little drawing while the model computes on the same cores.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "LiteGraph.Canvas.MaximumFps": 5}

COUNT_EVENTS = """() => {
  window.seen = []
  const kinds = [
    'progress', 'b_preview_with_metadata', 'executed',
    'execution_success', 'execution_error', 'execution_interrupted',
  ]
  for (const kind of kinds)
    app.api.addEventListener(kind, (event) => window.seen.push([kind, event.detail ?? {}]))
}"""

SAVED_FILES = """() => window.seen
  .filter(([kind]) => kind === 'executed')
  .flatMap(([, data]) => data.output?.images ?? [])
  .map((image) => image.filename)"""

# A node draws a picture on the canvas, but plays a video in an element of its own.
SHOWN = """(name) => {
  const shown = (file) => file.includes(name)
  for (const video of document.querySelectorAll('video'))
    if (shown(video.currentSrc) && video.videoWidth && video.checkVisibility())
      return [video.currentSrc, video.videoWidth, video.videoHeight]
  for (const image of app.graph.nodes.flatMap((node) => node.imgs ?? []))
    if (shown(image.src) && image.naturalWidth)
      return [image.src, image.naturalWidth, image.naturalHeight]
  return null
}"""

RECTANGLES = """(title) => [
  app.graph.nodes.map(({ pos, size }) => [pos[0], pos[1] - title, pos[0] + size[0], pos[1] + size[1]]),
  app.graph.groups.map(({ pos, size }) => [pos[0], pos[1], pos[0] + size[0], pos[1] + size[1]]),
]"""

SAMPLING = (
    "() => window.seen.some(([kind, data]) => kind === 'progress' && data.max === 500 && data.value > 1)"
)

SET_WIDGETS = """(values) => {
  for (const node of app.graph.nodes)
    for (const widget of node.widgets ?? [])
      if (widget.name in values)
        widget.value = values[widget.name]
}"""

WIDGET = """(name) => app.graph.nodes
  .flatMap((node) => node.widgets ?? [])
  .filter((widget) => widget.name === name)
  .map((widget) => widget.value)"""

MISSING_NODES = """() => app.graph.nodes
  .map((node) => node.type)
  .filter((type) => !(type in LiteGraph.registered_node_types))"""

# What a user does who has the released checkpoint as a folder: one loader in place of those of single files.
TAKE_FOLDER = """(checkpoint) => {
  const outputs = { EasyAnimateV3TransformerLoader: 0, CLIPLoader: 1, EasyAnimateV3VAELoader: 2, CLIPVisionLoader: 3 }
  const loader = LiteGraph.createNode('EasyAnimateV3Loader')
  app.graph.add(loader)
  for (const node of [...app.graph.nodes]) {
    if (!(node.type in outputs)) continue
    if (outputs[node.type] === 0) loader.pos = [...node.pos]
    for (const id of [...node.outputs[0].links]) {
      const link = app.graph.links.get(id)
      loader.connect(outputs[node.type], app.graph.getNodeById(link.target_id), link.target_slot)
    }
    app.graph.remove(node)
  }
  loader.widgets.find((widget) => widget.name === 'checkpoint').value = checkpoint
}"""

DROP_FILE = """async ([address, name, type]) => {
  const bytes = await (await fetch(address)).arrayBuffer()
  const transfer = new DataTransfer()
  transfer.items.add(new File([bytes], name, { type }))
  const options = { dataTransfer: transfer, bubbles: true, cancelable: true, clientX: 700, clientY: 700 }
  const canvas = document.getElementById('graph-canvas')
  canvas.dispatchEvent(new DragEvent('dragover', options))
  canvas.dispatchEvent(new DragEvent('drop', options))
}"""


class UserInterface:
    """One browser tab on the server, with the actions that the tests need."""

    def __init__(self, page, server):
        self.page = page
        self.server = server
        self.errors = []
        page.on("console", self._note_error)
        page.on("pageerror", lambda error: self._note(str(error)))
        page.on("response", lambda answer: answer.ok or self._note(f"{answer.status} {answer.url}"))

    def _note_error(self, message):
        if message.type == "error":
            self._note(f"{message.text} {message.location.get('url', '')}")

    def _note(self, text):
        # The stock UI logs errors of its own on every start, and is kept from asking outside about nodes and models.
        if "EasyAnimate" in text and not any(site in text for site in ("api.comfy.org", "huggingface.co")):
            self.errors.append(text)

    def open(self):
        self.server.post("/settings", SETTINGS)
        self.page.goto(self.server.url)
        self.page.wait_for_function("() => window.LiteGraph?.registered_node_types?.EasyAnimateV3SaveVideo")
        self.page.evaluate(COUNT_EVENTS)

    def open_template(self, name):
        """Click the workflow's card in the template browser."""
        self.errors.clear()
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self.page.get_by_role("dialog").get_by_text(PACK_NAME, exact=True).first.click()
        self.page.get_by_test_id(f"template-workflow-{name}").click()
        wanted = sorted(node["type"] for node in load(name)["nodes"])
        self.page.wait_for_function(
            "(types) => app.graph.nodes.map((n) => n.type).sort().join() === types", arg=",".join(wanted)
        )
        self.page.get_by_test_id("template-workflows-content").wait_for(state="detached")
        assert self.page.evaluate(MISSING_NODES) == []

    @property
    def missing_models(self):
        """The entries of the dialog of missing models."""
        return self.page.locator(".comfy-missing-models li")

    def close_missing_models(self):
        """Wait for the dialog of missing models, close it and return what it lists."""
        self.missing_models.first.wait_for()
        labels = [text.split("\n")[0].strip() for text in self.missing_models.all_inner_texts()]
        self.page.keyboard.press("Escape")
        self.missing_models.first.wait_for(state="detached")
        return labels

    def node_types(self):
        return sorted(self.page.evaluate("() => app.graph.nodes.map((node) => node.type)"))

    def set_widgets(self, **values):
        self.page.evaluate(SET_WIDGETS, values)

    def widget(self, name):
        """Return the value of the only widget of this name."""
        (value,) = self.page.evaluate(WIDGET, name)
        return value

    def misplaced_nodes(self):
        """Return the types of nodes that lie over another one or reach out of their group."""
        nodes, groups = self.page.evaluate(RECTANGLES, TITLE_HEIGHT)
        types = self.page.evaluate("() => app.graph.nodes.map((node) => node.type)")
        return [
            kind
            for kind, node in zip(types, nodes, strict=True)
            if sum(overlap(node, other) for other in nodes) > 1
            or not any(inside(node, group) for group in groups)
        ]

    def click_run(self):
        self.page.evaluate("() => { window.seen.length = 0 }")
        self.page.get_by_test_id("queue-button").get_by_label("Run", exact=True).click()

    def wait_for_event(self, pattern, timeout=60):
        """Wait for an event of the run and return its kind and data."""
        handle = self.page.wait_for_function(
            "(pattern) => window.seen.find(([kind]) => RegExp(pattern).test(kind))",
            arg=pattern,
            timeout=timeout * 1000,
        )
        return handle.json_value()

    def run(self):
        self.click_run()
        kind, data = self.wait_for_event("success|error|interrupted")
        assert kind == "execution_success", data

    def screenshot(self, name):
        """Keep a picture in .dev/screenshots, or where SCREENSHOTS says, for people to look at."""
        # The canvas is drawn a few times a second only.
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=Path(os.environ.get("SCREENSHOTS", DEV / "screenshots")) / f"{name}.png")


@pytest.fixture(scope="module")
def interface(server):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        page = browser.new_page(viewport={"width": 1920, "height": 1000}, locale="en-US")
        page.set_default_timeout(60_000)
        interface = UserInterface(page, server)
        interface.open()
        yield interface
        browser.close()


@pytest.mark.parametrize("name", NAMES)
def test_template_opens_runs_and_comes_back_from_its_file(name, interface):
    interface.open_template(name)
    types = interface.node_types()
    assert interface.widget("checkpoint") == NANO
    # Everything but the file's name is as shipped.
    interface.set_widgets(filename_prefix=f"browser/{name}")
    interface.run()

    (file,) = interface.page.evaluate(SAVED_FILES)
    address, *shown = interface.page.wait_for_function(SHOWN, arg=file).json_value()
    assert tuple(shown) == SIZE
    interface.screenshot(name)
    # The whole run long there was time for it.
    assert interface.missing_models.count() == 0
    # What nodes show makes them grow.
    assert interface.misplaced_nodes() == []

    interface.page.evaluate("() => app.graph.clear()")
    assert interface.node_types() == []
    kind = "image/png" if name == "text_to_image" else "video/mp4"
    interface.page.evaluate(DROP_FILE, [address, file, kind])
    interface.page.wait_for_function("(count) => app.graph.nodes.length === count", arg=len(types))
    assert interface.node_types() == types
    assert interface.widget("filename_prefix") == f"browser/{name}"
    assert interface.widget("steps") == 20
    assert interface.errors == []


@pytest.mark.parametrize("name", RELEASED_NAMES)
def test_template_of_a_released_checkpoint_offers_its_files_and_runs(name, interface):
    interface.open_template(name)
    expected = [f"{model['directory']} / {model['name']}" for model in models_of(name)]
    assert sorted(interface.close_missing_models()) == sorted(expected)
    assert interface.misplaced_nodes() == []
    interface.screenshot(f"{name}_opened")
    # Nano stands in for the gigabytes.
    interface.page.evaluate(TAKE_FOLDER, NANO)
    width, height = SIZE
    interface.set_widgets(
        filename_prefix=f"browser/{name}", base=width, width=width, height=height, length=16, steps=4, fps=8
    )
    interface.run()
    (file,) = interface.page.evaluate(SAVED_FILES)
    _, *shown = interface.page.wait_for_function(SHOWN, arg=file).json_value()
    assert tuple(shown) == SIZE
    interface.screenshot(name)
    assert interface.errors == []


def test_cancel_stops_the_run_and_the_next_one_works(interface):
    interface.open_template("text_to_video")
    interface.set_widgets(steps=500, seed=7)
    interface.click_run()
    interface.page.wait_for_function(SAMPLING)
    # The clip plays in the node, faster than the steps come.
    interface.page.wait_for_timeout(2000)
    seen = interface.page.evaluate("() => window.seen.map(([kind]) => kind)")
    assert seen.count("b_preview_with_metadata") > seen.count("progress") + 3
    interface.page.get_by_label("Cancel current run").click()
    kind, data = interface.wait_for_event("success|error|interrupted", timeout=20)
    assert kind == "execution_interrupted"
    assert data["node_type"] == "EasyAnimateV3Sampler"

    interface.set_widgets(steps=4, seed=8)
    interface.run()
    assert interface.errors == []
